"""Run folders that failed, run, or wait: what is told of them, and what may be deleted."""

import shlex
import signal
import subprocess
import sys
import time

import pytest

from domainbed import runs, sweep
from domainbed.command_launchers.local import Commands, local_launcher, run_queue
from domainbed.jobs import Job, Need
from domainbed.lib.locks import Locked
from domainbed.runs import RunFolder


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


def job(root, seed, *needs):
    args = {"dataset": "Debug28", "algorithm": "ERM", "test_envs": [0], "hparams_seed": seed}
    made = Job(args, str(root))
    made.__dict__["needs"] = [Need("member", need) for need in needs]
    return made


def failed(root, seed, reason, exit_code=1, n_tries=1):
    made = job(root, seed)
    made.folder.create()
    for _ in range(n_tries):
        made.folder.fail(reason, exit_code)
    return made


def test_failures_are_counted_over_tries(folder):
    folder.fail("loss is nan", 1)
    assert folder.state() == runs.FAILED and folder.tries() == (1, 1)
    folder.begin({})
    assert folder.state() == runs.INCOMPLETE and folder.last_errors() == []
    folder.fail("no such file", 2)
    assert folder.tries() == (2, 2) and folder.failure() == "no such file"


def test_failures_are_grouped_by_reason(tmp_path):
    some = [failed(tmp_path, seed, "loss is nan") for seed in range(3)]
    other = failed(tmp_path, 9, "KeyError: 'x'", -11, n_tries=2)
    with open(other.folder / "err.txt", "a") as file:
        file.write("Traceback\n  in f\nKeyError: 'x'\n")
    one, two = sweep.failures([*some, other])
    assert (
        one
        == f"3 failed: loss is nan (exit code 1, tried 1 times; see {some[0].output_dir}/err.txt)"
    )
    first, *said = two.splitlines()
    assert first.startswith("1 failed: KeyError: 'x' (exit code -11, tried 2 times; ")
    assert said == ["    Traceback", "      in f"]


def test_a_full_disk_is_no_second_error(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "write_atomic", full)
    folder.fail("No space left on device")
    assert "No space left" in capsys.readouterr().err


def test_a_report_names_what_failed_was_interrupted_and_waits(tmp_path, capsys):
    bad, good, cut = failed(tmp_path, 0, "loss is nan"), job(tmp_path, 1), job(tmp_path, 2)
    for each in (good, cut):
        each.folder.create()
    good.folder.finish()
    held = job(tmp_path, 3, good, bad)
    assert sweep.report([bad, good, cut, held], {good.output_dir}) == 1
    said = capsys.readouterr()
    assert said.out == "4 jobs: 1 done, 1 failed, 1 interrupted, 1 waiting\n"
    lines = said.err.splitlines()
    assert "loss is nan" in lines[0]
    assert cut.id in lines[1] and "launch again" in lines[1]
    assert held.id in lines[2] and f"waits for Failed: {bad.output_dir}" in lines[2]


def test_deleting_leaves_what_is_done_or_running(tmp_path):
    done, running, cut, failed_ = (job(tmp_path, seed) for seed in range(4))
    for each in (done, running, cut, failed_):
        each.folder.create()
        (each.folder / "results.jsonl").write_text("{}\n")
    done.folder.finish()
    failed_.folder.fail("loss is nan")
    with running.folder.lock():
        assert running.state == runs.RUNNING
        assert Job.delete([done, running, cut, failed_]) == 2
        with pytest.raises(Locked):
            running.folder.delete()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {done.id, running.id}
    assert {path.name for path in running.folder.path.iterdir()} == {"results.jsonl"}


def python(code, *words):
    return shlex.join(["python", "-c", code, *map(str, words)])


def test_a_crash_is_a_failure_and_a_kill_an_interruption(tmp_path):
    for name in ("SIGABRT", "SIGKILL"):
        RunFolder(tmp_path / name).create()
        code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
        local_launcher([python(code, "--output_dir", tmp_path / name)])
    crashed, killed = RunFolder(tmp_path / "SIGABRT"), RunFolder(tmp_path / "SIGKILL")
    assert crashed.state() == runs.FAILED and crashed.tries() == (1, -signal.SIGABRT)
    assert "SIGABRT" in crashed.failure() and killed.state() == runs.INCOMPLETE


def test_an_interruption_ends_what_runs_and_starts_no_more(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "end = lambda *_: (open(sys.argv[1], 'a').write('!'), sys.exit())\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[1], 'w').write(os.environ['SLOT'])\n"
        "time.sleep(60)"
    )
    commands = [python(code, tmp_path / str(i)) for i in range(3)]

    def both_run(*_):
        if all((tmp_path / str(i)).exists() and (tmp_path / str(i)).stat().st_size for i in (0, 1)):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, both_run)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_queue(Commands(commands), [{"SLOT": "a"}, {"SLOT": "b"}])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 50
    assert {(tmp_path / str(i)).read_text() for i in (0, 1)} == {"a!", "b!"}
    assert not (tmp_path / "2").exists()


def test_a_folder_may_be_made_by_several_at_once(tmp_path):
    code = "import sys; from domainbed.runs import RunFolder\n"
    code += "for _ in range(300): RunFolder(sys.argv[1]).create()"
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    both = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert list((tmp_path / "run").iterdir()) == []
