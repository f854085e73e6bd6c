"""The queue of a sweep: what starts when, and before what."""

import threading
import time

import pytest

from domainbed import launching
from domainbed.command_launchers.local import Commands, run_queue
from domainbed.command_launchers.workers import WorkersOptions, read
from domainbed.jobs import Job, Need
from domainbed.launching import Queue, launch
from domainbed.registry import InputError


def job(root, algorithm, seed, *needs):
    args = {"dataset": "Debug28", "algorithm": algorithm, "test_envs": [0], "hparams_seed": seed}
    made = Job({**args, "trial_seed": 0}, str(root))
    made.__dict__["needs"] = [Need("member", need) for need in needs]
    return made


def finish(one):
    one.folder.create()
    one.folder.finish()


def name(queue, command):
    """Algorithm and hparams_seed of a command."""
    args = queue.running[command].train_args
    return args["algorithm"], args["hparams_seed"]


def do(queue, command, seconds=1.0):
    finish(queue.running[command])
    queue.ended(command, seconds)


@pytest.fixture
def chain(tmp_path):
    """Two members, an average of both, and a run of its own."""
    members = [job(tmp_path, "ERM", seed) for seed in range(2)]
    return [*members, job(tmp_path, "DiWA_uniform", 0, *members), job(tmp_path, "IRM", 0)]


def test_what_others_wait_for_starts_first_and_followers_start_at_once(chain, tmp_path):
    queue = Queue(chain, str(tmp_path))
    first, second = queue.take(), queue.take()
    assert [name(queue, c) for c in (first, second)] == [("ERM", 0), ("ERM", 1)]
    third = queue.take()
    assert name(queue, third) == ("IRM", 0) and queue.take() is None
    do(queue, first)
    assert queue.take() is None
    do(queue, second)
    last = queue.take()  # while the third still runs
    assert name(queue, last) == ("DiWA_uniform", 0)
    do(queue, last)
    do(queue, third)
    assert queue.done == {one.output_dir for one in chain} and not queue.running


def test_the_longest_kind_is_first_once_it_is_known(tmp_path):
    gate = job(tmp_path, "CORAL", 0)
    short = [job(tmp_path, "ERM", seed, gate) for seed in range(3)]
    long = [job(tmp_path, "IRM", seed) for seed in range(3)]
    queue = Queue([gate, *short, *long], str(tmp_path))
    first, second = queue.take(), queue.take()
    assert [name(queue, c)[0] for c in (first, second)] == ["CORAL", "IRM"]
    do(queue, second, 9.0)
    do(queue, first, 1.0)
    order = []  # all can start now, and those of ERM are before the others in the graph
    while (command := queue.take()) is not None:
        order.append(name(queue, command)[0])
        do(queue, command, 9.0 if order[-1] == "IRM" else 1.0)
    assert order == ["IRM"] * 2 + ["ERM"] * 3


def test_what_is_done_is_not_handed_out(chain, tmp_path):
    for one in chain[:2]:
        finish(one)
    queue = Queue(chain, str(tmp_path))
    finish(chain[3])  # by somebody else, meanwhile
    assert name(queue, queue.take()) == ("DiWA_uniform", 0)
    assert queue.take() is None and len(queue) == 0


@pytest.mark.parametrize("retries", [0, 2])
def test_failures_are_tried_again_and_hold_back_what_needs_them(chain, tmp_path, retries):
    queue, n_tries = Queue(chain, str(tmp_path), retries), 0
    while (command := queue.take()) is not None:
        if name(queue, command) == ("ERM", 1):
            n_tries += 1
            queue.running[command].folder.create()
            queue.running[command].folder.fail("no")
            queue.ended(command, 1.0)
        else:
            do(queue, command)
    assert n_tries == 1 + retries and queue.n_failed == 1
    assert queue.done == {chain[0].output_dir, chain[3].output_dir}


def test_what_runs_elsewhere_is_waited_for_and_taken_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    ends, dies = (job(tmp_path, "ERM", seed) for seed in range(2))
    after, ran = [job(tmp_path, "DiWA_uniform", 0, ends, dies)], []
    for one in (ends, dies):
        one.folder.create()

    def elsewhere(one, is_finished):
        with one.folder.lock():
            begun.wait()
            time.sleep(0.2)
            if is_finished:
                one.folder.finish()

    begun = threading.Barrier(3)
    threads = [threading.Thread(target=elsewhere, args=a) for a in ((ends, True), (dies, False))]
    for thread in threads:
        thread.start()
    begun.wait()

    def launcher(commands):
        raise AssertionError("it takes jobs one by one")

    def launch_queue(queue, options):
        while (command := queue.take()) is not None:
            ran.append(name(queue, command))
            do(queue, command)

    launcher.launch_queue = launch_queue
    assert launch(Queue([ends, dies, *after], str(tmp_path)), launcher, {}) == 0
    assert ran == [("ERM", 1), ("DiWA_uniform", 0)]
    assert 1 <= capsys.readouterr().out.count("run elsewhere") <= 2
    for thread in threads:
        thread.join()


def test_a_launcher_of_commands_gets_waves(chain, tmp_path, capsys):
    waves = []

    def launcher(commands):
        waves.append(len(commands))
        for one in chain:
            if one.command_str in commands:
                finish(one)

    assert launch(Queue(chain, str(tmp_path)), launcher, {}) == 0
    assert waves == [3, 1]
    assert "running 4 of 4 jobs, 0 are done" in capsys.readouterr().out


def test_a_launcher_that_only_hands_on_is_told_so(chain, tmp_path, capsys):
    assert launch(Queue(chain, str(tmp_path)), lambda commands: None, {}) == 0
    assert "3 jobs were handed on" in capsys.readouterr().out


def test_what_is_due_while_jobs_run_is_done(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(launching, "AFTER_SECONDS", 0.0)
    calls = []
    queue = Queue(chain, str(tmp_path), after=lambda: calls.append(len(queue.done)))
    run = {}
    while (command := queue.take()) is not None:
        run[command] = True
        do(queue, command)
    assert calls == [1, 2, 3, 4]


def test_a_long_job_does_not_hold_back_what_can_start(tmp_path):
    log = tmp_path / "log"
    queue = Commands([f"sh -c 'sleep {s}; echo {s} >> {log}'" for s in (1.0, 0.1, 0.2)])
    run_queue(queue, [{}, {}])
    assert log.read_text().split() == ["0.1", "0.2", "1.0"]


def test_options_of_workers(monkeypatch):
    for variable, slots in (("", [(None, 1)] * 3), ("0,1", [("0", 1), ("1", 1)] * 2)):
        monkeypatch.setattr("domainbed.command_launchers.workers.cores", lambda: 4)
        monkeypatch.setattr(
            "domainbed.command_launchers.workers.visible_gpus",
            lambda v=variable: [gpu for gpu in v.split(",") if gpu],
        )
        assert WorkersOptions(workers=3, per_gpu=2).slots() == slots
    assert read({"threads": "2"}).slots()[0] == ("0", 2)
    with pytest.raises(InputError, match="workers"):
        read({"partition": "gpu"})
