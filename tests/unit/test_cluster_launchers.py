"""What launchers for clusters do without a cluster: options, packing, dependencies, signals."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from domainbed.command_launchers import node, ray, slurm
from domainbed.command_launchers.node import Work
from domainbed.command_launchers.options import parse_options
from domainbed.command_launchers.tasks import Task
from domainbed.jobs import Job, Need
from domainbed.registry import InputError


def test_options_are_split_at_the_first_equals_sign():
    assert parse_options(["time=60", "constraint=a=b", "time=90"]) == {
        "time": "90",
        "constraint": "a=b",
    }
    for wrong in ("time", "=60"):
        with pytest.raises(InputError, match="expected key=value"):
            parse_options([wrong])


def test_options_are_typed():
    options = slurm.read({"time": "60", "gpus": 2, "partition": "short", "mem": "16GB"})
    assert (options.time, options.gpus, options.partition, options.mem) == (60, 2, "short", "16GB")
    assert slurm.read({}) == slurm.SlurmOptions()
    assert ray.read({"num_gpus": "0.5", "num_cpus": 2}) == ray.RayOptions("local", 2.0, 0.5)


@pytest.mark.parametrize(
    ("read", "given", "told"),
    [
        (slurm.read, {"partitoin": "gpu"}, "'partitoin' of slurm. Did you mean 'partition'"),
        (ray.read, {"num_gpu": "1"}, "'num_gpu' of ray. Did you mean 'num_gpus'"),
        (slurm.read, {"time": "1:30"}, "time=1:30 does not fit; expected a whole number above 0"),
        (slurm.read, {"time": 1.5}, "expected a whole number"),
        (slurm.read, {"parallel": 0}, "above 0"),
        (slurm.read, {"gpus": True}, "gpus=True does not fit"),
        (slurm.read, {"partition": ["a", "b"]}, "expected a text in one line"),
        (slurm.read, {"partition": "gpu\ntouch hacked"}, "expected a text in one line"),
        (ray.read, {"num_cpus": "nan"}, "expected a number above 0"),
    ],
)
def test_a_wrong_option_is_told(read, given, told):
    with pytest.raises(InputError) as error:
        read(given)
    assert told in str(error.value)


@pytest.mark.parametrize("options", [slurm.SlurmOptions, ray.RayOptions])
def test_every_option_is_documented(options):
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    for field in dataclasses.fields(options):
        assert f"\n| `{field.name}` |" in page


def test_a_task_waits_for_its_needs_and_is_not_done_twice(tmp_path):
    need, run = tmp_path / "need", tmp_path / "run"
    task = Task("true", str(run), (str(need),))
    assert f"{run} waits for 1 of 1 runs that it needs, such as {need};" in task.held_back()
    need.mkdir()
    (need / "done").write_text("done")
    assert task.held_back() is None
    run.mkdir()
    (run / "done").write_text("done")
    assert task.held_back() == f"{run} is done"
    assert Task("true").held_back() is None


@pytest.fixture
def handlers(monkeypatch):
    """Signals are handled afterwards as before; here SIGUSR2 is one that submitit handles."""
    monkeypatch.setattr(node, "_POLL_SECONDS", 0.01)
    caught: list[int] = []
    signals = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in signals}
    signal.signal(signal.SIGUSR2, lambda number, _: caught.append(number))
    yield caught
    for each, handler in before.items():
        signal.signal(each, handler)


def write(path: Path, text: str = "1") -> str:
    code = f"open({str(path)!r}, 'a').write({text!r})"
    return f'python -c "{code}"'


def test_work_does_all_jobs_though_one_fails(tmp_path, handlers):
    files = [tmp_path / str(i) for i in range(5)]
    commands = [*map(write, files), 'python -c "raise SystemExit(1)"']
    Work([Task(c) for c in reversed(commands)], parallel=3)()
    assert all(file.read_text() == "1" for file in files)


def test_jobs_of_a_task_share_its_gpus_and_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    shares = [Work([], parallel=3)._share(slot) for slot in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["4", "6", "4"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"4"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert Work([], parallel=3)._share(0) == {"OMP_NUM_THREADS": "1"}


SAVES = """
import signal, sys, time
def save(*_):
    open(sys.argv[1], "a").write("saved")
    sys.exit(0)
signal.signal(signal.SIGUSR1, save)
open(sys.argv[1], "a").write("started ")
time.sleep(60)
"""


def when_there(path: Path, act) -> None:
    """Act, in a thread, once a file has something in it."""

    def wait():
        while not (path.exists() and path.read_text()):
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_before_its_end_a_task_has_its_runs_save_their_state(tmp_path, handlers, number):
    pytest.importorskip("submitit")
    file, second = tmp_path / "said", tmp_path / "second"
    work = Work([Task(f"python -c '{SAVES}' {file}"), Task(write(second))])

    class Requeued(Exception):
        pass

    def requeue(*_):
        again = work.checkpoint()
        assert file.read_text() == "started saved"
        assert again.function.tasks == work.tasks
        raise Requeued

    signal.signal(signal.SIGUSR2, requeue)
    when_there(file, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Requeued):
        work()
    work._forget_ended()
    assert not second.exists() and not work.running


def test_a_task_that_is_stopped_starts_nothing_more_and_awaits_its_end(tmp_path, handlers):
    file, second = tmp_path / "said", tmp_path / "second"
    first = f"""python -c 'import time; open("{file}", "w").write("1"); time.sleep(0.3)'"""
    when_there(file, lambda: os.kill(os.getpid(), signal.SIGTERM))
    started = time.monotonic()
    Work([Task(first), Task(write(second))], seconds=1)()
    assert time.monotonic() - started > 1
    assert not second.exists()


FAKES = {
    "srun": "",
    "scontrol": "print('MaxArraySize            = 3')",
    "squeue": "print(open(HERE + '/queue').read())",
    "sbatch": """
import re
text = open(sys.argv[1]).read()
if "--partition=closed" in text:
    sys.exit("sbatch: error: invalid partition specified: closed")
n = len(open(HERE + "/submitted").readlines()) + 1
found = re.findall(r"#SBATCH --(array|dependency|time|gpus-per-node)=(.*)", text)
open(HERE + "/submitted", "a").write(json.dumps(dict(found)) + "\\n")
print("Submitted batch job", n)
last = re.search(r"--array=0-(.)", text)
ids = [f"{n}_{i}" for i in range(int(last[1]) + 1)] if last else [str(n)]
open(HERE + "/queue", "a").write("\\n".join(ids) + "\\n")
""",
}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Commands that behave like Slurm's; returns a function that lists what was submitted."""
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in FAKES.items():
        head = f"#!{sys.executable} -SE\nimport json, sys\nHERE = {str(folder)!r}\n"
        (folder / name).write_text(head + code)
        (folder / name).chmod(0o755)
    for name in ("queue", "submitted"):
        (folder / name).touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda: list(map(json.loads, (folder / "submitted").read_text().splitlines()))


def job(root: Path, seed: int, *needs: Job) -> Job:
    """A job that needs others."""
    args = {"algorithm": "ERM", "dataset": "RotatedDigits", "test_envs": [0]}
    made = Job({**args, "hparams_seed": seed, "trial_seed": 0}, str(root))
    made.__dict__["needs"] = [Need("member", need) for need in needs]
    return made


def test_waves_become_arrays_that_wait_for_what_they_need(tmp_path, fakes, capsys):
    first = [job(tmp_path, i) for i in range(7)]
    second = [job(tmp_path, 10 + i, first[i], first[6]) for i in range(2)]
    options = {"time": "30", "jobs_per_task": "2", "gpus": "1"}
    assert slurm.launch_graph([first, second], options, str(tmp_path)) is False
    common = {"time": "30", "gpus-per-node": "1"}
    assert fakes() == [  # four tasks of two jobs, in arrays of up to three; one is no array
        {**common, "array": "0-2%3"},
        common,
        {**common, "dependency": "afterany:1:2"},
    ]
    ledger = json.loads((tmp_path / "slurm" / slurm.LEDGER).read_text())
    assert [ledger[each.id] for each in (*first, *second)] == (
        "1_0 1_0 1_1 1_1 1_2 1_2 2 3 3".split()
    )
    assert "wave 2: 2 jobs in 1 tasks of 3, after 1, 2" in capsys.readouterr().out


def test_what_is_queued_is_not_submitted_again(tmp_path, fakes, capsys):
    first = [job(tmp_path, i) for i in range(2)]
    slurm.launch_graph([first], {}, str(tmp_path))
    later = job(tmp_path, 10, first[1])
    slurm.launch_graph([first, [later]], {}, str(tmp_path))
    assert len(fakes()) == 2 and fakes()[1]["dependency"] == "afterany:1"
    assert "2 jobs are in the queue already, in 1; not submitted again" in capsys.readouterr().out
    (tmp_path / "bin" / "queue").write_text("")
    first[0].folder.create()
    first[0].folder.finish()
    slurm.launch_graph([first, [later]], {}, str(tmp_path))  # all have ended, and one was done
    assert [each.get("array") for each in fakes()[2:]] == [None, None]
    (tmp_path / "bin" / "queue").write_text("")
    first[1].folder.create()
    with first[1].folder.lock():
        slurm.launch_graph([first], {}, str(tmp_path))
    assert len(fakes()) == 4  # one is done, and the other runs elsewhere


def test_with_a_throttle_the_arrays_of_a_wave_follow_each_other(tmp_path, fakes):
    slurm.launch_graph([[job(tmp_path, i) for i in range(7)]], {"throttle": 2}, str(tmp_path))
    assert [(each.get("array"), each.get("dependency")) for each in fakes()] == [
        ("0-2%2", None),
        ("0-2%2", "afterany:1"),
        (None, "afterany:2"),
    ]


def test_what_slurm_refuses_is_one_line(tmp_path, fakes, capfd):
    with pytest.raises(InputError, match=r"Slurm refused 1 tasks: .*invalid partition") as error:
        slurm.launch_graph([[job(tmp_path, 0)]], {"partition": "closed"}, str(tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="character in its path"):
        slurm.launch_graph([], {}, str(tmp_path / "%j"))


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(InputError, match=r"domainbed-ratatouille\[slurm\]"):
            slurm.launch_graph([], {}, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        with pytest.raises(InputError, match=r"domainbed-ratatouille\[ray\]"):
            ray.launch_graph([], {}, str(tmp_path))
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="found no sbatch or srun or squeue or scontrol"):
        slurm.launch_graph([], {}, str(tmp_path))
