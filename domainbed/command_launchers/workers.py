"""Worker processes that import torch once and do one job after another.

Each has one core, or one GPU where there are any, so that N of them share the machine without
getting in each other's way and a job's numbers do not depend on how many others run. They keep
the last datasets in memory, and end with their parent.
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
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

from domainbed.command_launchers.local import Commands, Queue, note_crash, run_queue
from domainbed.command_launchers.multi_gpu import visible_gpus
from domainbed.command_launchers.options import per_core, read_options
from domainbed.lib.machine import cores, use_huge_pages

GRACE_SECONDS = 60.0
"""How long a worker whose parent died may go on, to save the state of its run."""

_TRAIN = ["python", "-m", "domainbed.scripts.train"]
_spawn = multiprocessing.get_context("spawn")


class _Worker:
    """A process that takes commands through a pipe, and answers when each has ended."""

    def __init__(self, slot: tuple[str | None, int]) -> None:
        self.slot, self.command, self.since, self.is_busy = slot, "", 0.0, False
        self.pipe, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_work, args=(theirs, *slot))
        self.process.start()
        theirs.close()

    def send(self, command: str) -> None:
        """Let it do a command."""
        self.command, self.since, self.is_busy = command, time.monotonic(), True
        with contextlib.suppress(OSError):  # it has died, which its pipe will tell
            self.pipe.send(command)

    def has_answered(self) -> bool:
        """Wait until it has done its command or died."""
        try:
            self.pipe.recv()
        except (EOFError, OSError):
            return False
        self.is_busy = False
        return True

    def end(self) -> None:
        """Have the process end: one that has nothing to do by itself, since its pipe is closed."""
        self.pipe.close()
        if self.is_busy:
            self.process.terminate()

    def close(self) -> None:
        """End the process; a run that is training saves its state first."""
        self.end()
        self.process.join()


_pool: list[_Worker] = []


@atexit.register
def close() -> None:
    """End all workers; they save the states of their runs at the same time."""
    for worker in _pool:
        worker.end()
    while _pool:
        _pool.pop().close()


@dataclass(frozen=True)
class WorkersOptions:
    """What `--launcher_options` may say.

    workers: processes on a CPU; default: one for each core. threads: of each one; a run's numbers
    depend on them by rounding, so on a CPU the default is one. per_gpu: processes on each GPU.
    """

    workers: int | None = per_core()
    threads: int | None = per_core()
    per_gpu: int = per_core(1)

    def slots(self) -> list[tuple[str | None, int]]:
        """The GPU and the number of threads of each process."""
        n_cores, gpus = cores(), visible_gpus()
        if not gpus:
            return [(None, self.threads or 1)] * (self.workers or n_cores)
        n_threads = self.threads or max(1, n_cores // (len(gpus) * self.per_gpu))
        return [(gpu, n_threads) for _ in range(self.per_gpu) for gpu in gpus]


def read(options: Mapping[str, str]) -> WorkersOptions:
    """Check the options; raises `InputError` for wrong ones."""
    return read_options(WorkersOptions, options, "workers")


def workers_launcher(commands: list[str]) -> None:
    """Do the commands in worker processes, one for each core or GPU."""
    launch_queue(Commands(commands), {})


def launch_queue(queue: Queue, options: Mapping[str, str]) -> None:
    """The same with commands of a queue."""
    free = read(options).slots()
    idle: list[_Worker] = []
    for worker in list(_pool):
        if worker.process.is_alive() and worker.slot in free:
            free.remove(worker.slot)
            idle.append(worker)
        else:
            _drop(worker)
    busy: dict[Connection, _Worker] = {}
    while True:
        while (idle or free) and (command := queue.take()) is not None:
            worker = idle.pop() if idle else _add(free.pop(0))
            worker.send(command)
            busy[worker.pipe] = worker
        if not busy:
            return
        ended = multiprocessing.connection.wait(list(busy), timeout=1)
        for pipe in cast("list[Connection]", ended):
            worker = busy.pop(pipe)
            if worker.has_answered():
                idle.append(worker)
            else:  # killed in the middle of a job, which its folder shows
                _drop(worker)
                note_crash(shlex.split(worker.command), worker.process.exitcode)
                free.append(worker.slot)
            queue.ended(worker.command, time.monotonic() - worker.since)


workers_launcher.launch_queue = launch_queue  # type: ignore[attr-defined]
workers_launcher.check_options = read  # type: ignore[attr-defined]


def _add(slot: tuple[str | None, int]) -> _Worker:
    _pool.append(_Worker(slot))
    return _pool[-1]


def _drop(worker: _Worker) -> None:
    _pool.remove(worker)
    worker.close()


def _work(pipe: Connection, gpu: str | None, n_threads: int) -> None:
    """What a worker process does until its parent closes the pipe or dies."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    use_huge_pages()
    import torch
    from tqdm import tqdm

    from domainbed.engine import sinks
    from domainbed.scripts import train

    torch.set_num_threads(n_threads)
    # tqdm's own lock is a semaphore: of a killed process Python warns after all has been said
    tqdm.set_lock(threading.RLock())
    sinks.QUIET = True
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            command = pipe.recv()
            words = shlex.split(command)
            if words[:3] == _TRAIN:
                _in_process(train.main, words[3:])
            else:
                run_queue(Commands([command]), [{}])
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
