"""The sweep command as its user types it, small."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domainbed.scripts import collect_results, sweep

ALGORITHMS = [
    "ERM",
    "FineTuning",
    "InterTraining",
    "DiWA_uniform",
    "DiWA_greedy",
    "Ratatouille_uniform",
    "Ratatouille_greedy",
]
SMALL = [
    "--datasets", "RotatedDigits",
    "--aux_datasets", "NoisyDigits",
    "--aux_hparams", "1",
    "--n_hparams", "2",
    "--n_trials", "1",
    "--steps", "3",
    "--single_test_envs",
    "--skip_confirmation",
    "--hparams", '{"batch_size": 4, "lp_steps": 1}',
]  # fmt: skip

PLAIN = ["--hparams", '{"batch_size": 4}']


def words(output_dir: Path, *more: str, algorithms=ALGORITHMS) -> list[str]:
    return [*SMALL, "--algorithms", *algorithms, "--output_dir", str(output_dir), *more]


def tables(output_dir: Path, capsys) -> str:
    capsys.readouterr()
    assert collect_results.main(["--input_dir", str(output_dir)]) == 0
    return capsys.readouterr().out


def start(output_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "domainbed.scripts.sweep", "launch", *words(output_dir)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("sweep") / "runs"
    assert start(output_dir).wait() == 0
    return output_dir


def test_the_recipe_runs_and_every_strategy_is_a_row(undisturbed, capsys):
    text = tables(undisturbed, capsys)
    for name in ALGORITHMS:
        assert f"\n{name} " in text
    done = [path.parent for path in undisturbed.rglob("done")]
    # 4 domains x (3 x 2 runs + 4 averages + a probe), an auxiliary run and its probe
    assert len(done) == 4 * (2 + 2 + 2 + 4 + 1) + 2


def test_launching_again_runs_nothing(undisturbed, capsys):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("results.jsonl")}
    assert sweep.main(["launch", *words(undisturbed)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.rglob("results.jsonl")}
    assert "46 done" in capsys.readouterr().out


def test_provenance_names_probe_auxiliary_run_and_members(undisturbed):
    descriptions = [json.loads(p.read_text()) for p in undisturbed.glob("*/run.json")]
    heads: dict[tuple, set] = {}
    for d in descriptions:
        if d["args"]["algorithm"] != "ERM":
            key = tuple(d["args"]["test_envs"])
            heads.setdefault(key, set()).add(d["provenance"]["head"])
            assert d["provenance"]["foundation"]["name"] == "letters"
    assert all(len(some) == 1 for some in heads.values())
    recycled = [d for d in descriptions if d["args"]["algorithm"] == "InterTraining"]
    roles = [[entry["role"] for entry in d["provenance"]["initial"]] for d in recycled]
    assert sorted(map(tuple, roles)) == [("probe",)] * 4 + [("probe", "auxiliary")] * 4
    averages = [d for d in descriptions if d["args"]["algorithm"] == "Ratatouille_uniform"]
    assert all(len(d["provenance"]["members"]) == 2 for d in averages)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, 6, 10])
def test_a_sweep_killed_and_launched_again_gives_the_same_tables(
    seconds, undisturbed, tmp_path, capsys
):
    killed = start(tmp_path / "runs")
    time.sleep(seconds)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start(tmp_path / "runs").wait() == 0
    assert tables(tmp_path / "runs", capsys) == tables(undisturbed, capsys)


def test_a_failed_job_holds_back_only_those_that_need_it(tmp_path, capsys):
    bad = ["--hparams", '{"batch_size": 4, "lr": 1e30}', "--steps", "9"]
    code = sweep.main(["launch", *words(tmp_path, *bad, algorithms=["ERM", "DiWA_uniform"])])
    said = capsys.readouterr()
    assert code == 1
    assert "failed: loss is nan" in said.err and "err.txt" in said.err
    assert "DiWA_uniform" in said.err
    assert sweep.main(["status", *words(tmp_path, *bad, algorithms=["ERM"])]) == 0
    assert "8 failed: loss is nan at step" in capsys.readouterr().out


def test_delete_incomplete_leaves_done_and_running_jobs(undisturbed, tmp_path, capsys):
    one = words(tmp_path, *PLAIN, algorithms=["ERM"])
    asked, _ = sweep.sweep.plan(sweep.parse(["status", *one]))
    for job in asked:
        Path(job.output_dir).mkdir(parents=True)
    with asked[0].folder.lock():
        assert sweep.main(["delete_incomplete", *one]) == 0
    left = [job for job in asked if Path(job.output_dir).exists()]
    assert left == asked[:1]


def test_a_dry_launcher_prints_the_commands_of_the_first_wave(tmp_path, capsys):
    code = sweep.main(
        ["launch", *words(tmp_path, *PLAIN, "--command_launcher", "dummy", algorithms=["ERM"])]
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python -m ")]
    assert code == 0 and len(lines) == 8


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--datasets", "RotatedDigit"], "Did you mean 'RotatedDigits'"),
        (["--algorithms", "ERN"], "Did you mean 'ERM'"),
        (["--command_launcher", "worker"], "Did you mean 'workers'"),
        (["--hparams", '{"lp_step": 1}'], "Did you mean 'lp_steps'"),
        (["--hparams", '{"lr": "1"}'], "expected a number above 0"),
        (["--aux_datasets", "RotatedDigits"], "no auxiliary dataset for RotatedDigits"),
        (["--aux_datasets", "NoisyDigit"], "Did you mean 'NoisyDigits'"),
        (["--aux_hparams", "0"], "--aux_hparams"),
        (["--n_hparams", "0"], "--n_hparams"),
        (["--datasets", "PACS"], "--data_dir"),
        (["--config", "/no/such.toml"], "/no/such.toml"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(more, told, tmp_path, capsys):
    assert sweep.main(["launch", *words(tmp_path / "runs", *more)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list((tmp_path).rglob("results.jsonl"))


def test_a_config_gives_arguments_and_flags_win(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('output_dir = "from_config"\nn_hparams = 3\n[hparams]\nlr = 0.1\n')
    args = sweep.parse(["launch", "--config", str(config), "--n_hparams", "5"])
    assert (args.output_dir, args.n_hparams, args.hparams) == ("from_config", 5, '{"lr": 0.1}')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("n_hparam = 3", "Did you mean 'n_hparams'"),
        ('n_hparams = "3"', "expected an integer"),
        ('datasets = "PACS"', "expected a list of values"),
        ("n_hparams = [", "cannot be read"),
    ],
)
def test_a_wrong_config_is_told(text, told, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text)
    assert sweep.main(["launch", "--config", str(tmp_path / "c.toml")]) == 2
    assert told in capsys.readouterr().err


def test_greedy_is_a_brute_force_search_and_uniform_the_mean(undisturbed):
    import torch

    from domainbed.engine.execute import _finished_needs
    from domainbed.engine.options import Options
    from domainbed.engine.run import Run
    from domainbed.lib import weights
    from domainbed.scripts import train

    for path in undisturbed.glob("*/run.json"):
        args = json.loads(path.read_text())["args"]
        if not args["algorithm"].startswith("DiWA"):
            continue
        job = next(
            job
            for job in sweep.sweep.plan(sweep.parse(["status", *words(undisturbed)]))[0]
            if job.output_dir == str(path.parent)
        )
        command = shlex.split(job.command_str)[3:]
        options = Options.of(train.build_parser().parse_args(command))
        run = Run(options, _finished_needs(options))
        members = [weights.read(f / "model_best.safetensors") for f in run.needs["member"]]

        def mean(some):
            return {
                name: torch.stack([state[name].double() for state in some]).mean(0).float()
                for name in some[0]
            }

        def score(state, run=run):
            algorithm = run.build()
            weights.load_matching(algorithm, state, "it")
            return run.id_score(run.evaluator.evaluate(algorithm))

        if args["algorithm"] == "DiWA_greedy":
            ordered = [s for s, h in sorted(members, key=lambda m: -m[1]["id_acc"])]
            kept = ordered[:1]
            for state in ordered[1:]:
                if score(mean([*kept, state])) >= score(mean(kept)):
                    kept.append(state)
        else:
            kept = [state for state, _ in members]
        result, _ = weights.read(path.parent / "model.safetensors")
        for name, tensor in mean(kept).items():
            torch.testing.assert_close(result[name], tensor, rtol=1e-6, atol=1e-7)


def test_what_would_fail_is_refused_before_any_job_starts(photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos / "PACS", data / "PACS")
    (tmp_path / "foreign.pt").write_bytes(b"no weights")
    lite = {"backbone": "mnist_cnn", "image_size": 28, "batch_size": 4}

    def launch(*more, **hparams):
        where = ["--data_dir", str(data), "--output_dir", str(tmp_path / "runs")]
        what = ["--datasets", "PACS", "--algorithms", "ERM", "--n_trials", "1", "--n_hparams", "1"]
        text = json.dumps({**lite, **hparams})
        return sweep.main(
            ["launch", *where, *what, "--skip_confirmation", "--hparams", text, *more]
        )

    image = next((data / "PACS" / "sketch").rglob("*.png"))
    whole = image.read_bytes()
    image.write_bytes(whole[:100])
    assert launch() == 2
    image.write_bytes(whole)
    assert launch(batch_size=500) == 2
    assert launch("--foundation", str(tmp_path / "foreign.pt")) == 2
    assert not list((tmp_path / "runs").glob("*/run.json"))
