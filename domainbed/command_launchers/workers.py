"""Worker processes that import torch once and do one job after another.

Each has one core, or one GPU where there are any, so that N of them share the machine without
getting in each other's way and a job's numbers do not depend on how many others run. They live
from one wave of a sweep to the next, keep the last datasets in memory, and end with their parent.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import multiprocessing.connection
import os
import shlex
import threading
import time
from multiprocessing.connection import Connection
from typing import cast

from domainbed.command_launchers.local import note_crash, run_all
from domainbed.lib.machine import cores

GRACE_SECONDS = 60.0
"""How long a worker whose parent died may go on, to save the state of its run."""

_TRAIN = ["python", "-m", "domainbed.scripts.train"]
_spawn = multiprocessing.get_context("spawn")


class _Worker:
    """A process that takes commands through a pipe, and answers when each has ended."""

    def __init__(self, gpu: str | None, n_threads: int) -> None:
        self.gpu, self.n_threads = gpu, n_threads
        self.pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_work, args=(theirs, gpu, n_threads))
        self.process.start()
        self.command = ""
        theirs.close()

    def send(self, command: str) -> None:
        """Let it do a command."""
        self.command = command
        with contextlib.suppress(OSError):  # it has died, which its pipe will tell
            self.pipe.send(command)

    def has_answered(self) -> bool:
        """Wait until it has done its command or died."""
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            return False
        return True

    def close(self) -> None:
        """End the process; a run that is training saves its state first."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


_pool: list[_Worker] = []


@atexit.register
def close() -> None:
    """End all workers; they save the states of their runs at the same time."""
    for worker in _pool:
        worker.process.terminate()
    while _pool:
        _pool.pop().close()


def workers_launcher(commands: list[str]) -> None:
    """Do the commands in worker processes, one for each core or GPU."""
    waiting = list(reversed(commands))
    _fill_pool(len(commands))
    busy: dict[Connection, _Worker] = {}
    for worker in _pool[: len(commands)]:
        worker.send(waiting.pop())
        busy[worker.pipe] = worker
    while busy:
        for pipe in cast("list[Connection]", multiprocessing.connection.wait(list(busy))):
            worker = busy.pop(pipe)
            has_answered = worker.has_answered()
            if not has_answered:  # killed in the middle of a job, which its folder shows
                _pool.remove(worker)
                worker.close()
                note_crash(shlex.split(worker.command), worker.process.exitcode)
            if waiting:
                if not has_answered:
                    worker = _Worker(worker.gpu, worker.n_threads)
                    _pool.append(worker)
                worker.send(waiting.pop())
                busy[worker.pipe] = worker


def _fill_pool(n_jobs: int) -> None:
    from domainbed.command_launchers.multi_gpu import visible_gpus

    for worker in [worker for worker in _pool if not worker.process.is_alive()]:
        _pool.remove(worker)
        worker.close()
    n_cores = cores()
    gpus: list[str | None] = list(visible_gpus()) or [None] * n_cores
    # a job's numbers depend on its threads, so on a CPU they are always one
    n_threads = 1 if gpus[0] is None else max(1, n_cores // len(gpus))
    for worker in _pool:
        gpus.remove(worker.gpu)
    for gpu in gpus[: max(0, n_jobs - len(_pool))]:
        _pool.append(_Worker(gpu, n_threads))


def _work(pipe: Connection, gpu: str | None, n_threads: int) -> None:
    """What a worker process does until its parent closes the pipe or dies."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    from domainbed.engine import sinks
    from domainbed.scripts import train

    torch.set_num_threads(n_threads)
    sinks.QUIET = True
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            command = pipe.recv()
            words = shlex.split(command)
            if words[:3] == _TRAIN:
                _in_process(train.main, words[3:])
            else:
                run_all([command], [{}])
            pipe.send(None)


def _in_process(main, argv: list[str]) -> None:
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        with contextlib.suppress(SystemExit):
            main(argv)


def _end_with_parent() -> None:
    from domainbed.engine import checkpoint

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        checkpoint.STOP.ask()
        time.sleep(GRACE_SECONDS)
        os._exit(1)
