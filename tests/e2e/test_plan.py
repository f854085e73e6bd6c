"""What a sweep says of itself before it runs."""

from types import SimpleNamespace

import pytest

from domainbed import planning
from domainbed.planning import Cost
from domainbed.scripts import sweep

pytestmark = pytest.mark.usefixtures("tiny_datasets")


def plan(folder, *more):
    words = ["plan", "--datasets", "TinyStripes", "--n_trials", "1", "--output_dir", str(folder)]
    words += ["--foundation", "letters", "--steps", "3", "--hparams", '{"batch_size": 2}', *more]
    return sweep.main(words)


def rows(text):
    return {tuple(line.split()[:3]): line.split()[3:] for line in text.splitlines()}


def test_jobs_are_counted_by_kind_and_wave(tmp_path, capsys):
    more = ["--algorithms", "ERM", "Ratatouille_greedy", "--n_hparams", "2", "--single_test_envs"]
    assert plan(tmp_path, *more, "--aux_datasets", "TinyColumns", "--count_only") == 0
    text = capsys.readouterr().out
    found = rows(text)
    assert found["ERM", "TinyStripes", "."] == ["6", "0", "6", "1"]
    assert found["FineTuning", "TinyStripes", "lp"] == ["3", "0", "3", "1", "probe"]
    assert found["FineTuning", "TinyColumns", "aux"] == ["1", "0", "1", "2"]
    assert found["InterTraining", "TinyStripes", "."] == ["6", "0", "6", "2-3"]
    assert found["Ratatouille_greedy", "TinyStripes", "."][3:] == ["4", "made", "from", "runs"]
    assert text.splitlines()[-1] == (
        "20 jobs: 0 done, 17 to train, 3 to make from finished runs, in 4 waves"
    )
    assert list(tmp_path.iterdir()) == []


def test_disk_and_time_are_measured(tmp_path, capsys):
    more = ("--algorithms", "ERM", "DiWA_uniform", "--n_hparams", "1", "--single_test_envs")
    assert plan(tmp_path, *more) == 0
    *_, disk, time = capsys.readouterr().out.splitlines()
    assert disk.startswith("disk: 0.0 kB now, about") and disk.endswith("MB more")
    assert time.startswith("time: about") and "on one worker" in time
    assert list(tmp_path.iterdir()) == []


def test_one_selection_method_asks_for_its_runs_only(tmp_path, capsys):
    erm = ("--algorithms", "ERM", "--n_hparams", "1", "--count_only")
    for more, n_jobs in (((), 6), (("--for_selection", "iid"), 3), (("--for_selection", "loo"), 6)):
        assert plan(tmp_path, *erm, *more) == 0
        assert f"\n{n_jobs} jobs: 0 done" in capsys.readouterr().out
    assert plan(tmp_path, *erm, "--for_selection", "loo", "--single_test_envs") == 2
    assert plan(tmp_path, *erm, "--for_selection", "iid_autolr") == 2
    assert "train_autolr" in capsys.readouterr().err


def test_options_are_for_launchers_that_take_them(tmp_path, capsys):
    erm = ("--algorithms", "ERM", "--n_hparams", "1", "--count_only")
    local = ("--command_launcher", "local")
    assert plan(tmp_path, *erm, *local, "--launcher_options", "time=10") == 2
    assert "takes none" in capsys.readouterr().err
    assert plan(tmp_path, *erm, "--launcher_options", "time=10") == 2
    assert "Unknown launcher option 'time' of workers" in capsys.readouterr().err
    slurm = tmp_path / "slurm.toml"
    slurm.write_text('command_launcher = "slurm"\n[launcher_options]\ntime = 10\n')
    assert plan(tmp_path / "runs", *erm, "--config", str(slurm)) == 0
    slurm.write_text('command_launcher = "slurm"\n[launcher_options]\ntimes = 10\n')
    assert plan(tmp_path / "runs", *erm, "--config", str(slurm)) == 2
    assert "'time'" in capsys.readouterr().err


def test_a_wave_lasts_as_long_as_its_longest_job_at_least():
    def task(name, *needs):
        needs = [SimpleNamespace(job=need) for need in needs]
        folder = SimpleNamespace(is_done=False)
        return SimpleNamespace(output_dir=name, folder=folder, needs=needs)

    a, b = task("a"), task("b")
    graph = [a, b, task("c", a, b)]
    assert planning.waves(graph) == {"a": 1, "b": 1, "c": 2}
    seconds = {"a": 10.0, "b": 2.0, "c": 3.0}
    assert planning.sweep_seconds(graph, seconds, 1) == 15.0
    assert planning.sweep_seconds(graph, seconds, 2) == planning.sweep_seconds(graph, seconds, 9)
    assert planning.sweep_seconds(graph, seconds, 2) == 13.0


def test_a_cost_counts_updates_and_evaluations():
    cost = Cost(100, 0.5, 3, 2.0, 1000)
    assert cost.seconds(SimpleNamespace(train_args={"algorithm": "ERM"})) == 56.0
    average = SimpleNamespace(train_args={"algorithm": "DiWA_greedy"}, needs=[None] * 4)
    assert cost.seconds(average) == 8.0


@pytest.mark.parametrize(
    "seconds, text", [(40, "40 s"), (720, "12 min"), (12000, "3 h 20 min"), (439200, "5 d 2 h")]
)
def test_time_is_readable(seconds, text):
    assert planning.readable_time(seconds) == text


@pytest.mark.parametrize("n, text", [(500, "0.5 kB"), (12.6e6, "13 MB"), (1.23e12, "1.2 TB")])
def test_size_is_readable(n, text):
    assert planning.readable_size(n) == text
