"""What a task of a Slurm array does on its node: run jobs, and stop them in time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from domainbed.command_launchers.tasks import Task

_POLL_SECONDS = 0.1


class Work:
    """Jobs to run, `parallel` at a time; a function that submitit can checkpoint.

    SIGUSR1 and SIGUSR2 (a time-out, a pre-emption that warns) make the runs save their state and
    put the task back into the queue, where it goes on with what is not done. SIGTERM (scancel, a
    pre-emption that does not warn) makes them save it, and nothing more is started; the end is
    then awaited for `seconds`, for a task that returns is not put back by Slurm.
    """

    def __init__(self, tasks: Sequence[Task], parallel: int = 1, seconds: float = 90) -> None:
        self.tasks, self.parallel, self.seconds = list(tasks), parallel, seconds
        self.running: dict[int, subprocess.Popen] = {}
        self.ends_at: float | None = None

    def __call__(self) -> None:
        """Run the jobs that are not done and whose needs are."""
        handlers = [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGUSR2)]
        for handler in filter(callable, handlers):  # submitit's, of the signal that it expects
            signal.signal(signal.SIGUSR1, handler)
            signal.signal(signal.SIGUSR2, handler)
        signal.signal(signal.SIGTERM, self._stop)
        waiting = list(reversed(self.tasks))
        while waiting or self.running:
            self._forget_ended()
            if self.ends_at is not None:
                waiting.clear()
            for slot in range(self.parallel):
                if waiting and slot not in self.running:
                    self._start(waiting.pop(), slot)
            time.sleep(_POLL_SECONDS)
        while self.ends_at is not None and time.monotonic() < self.ends_at:
            time.sleep(_POLL_SECONDS)

    def checkpoint(self) -> Any:
        """Stop the runs; what submitit is to do when the task is back from the queue."""
        from submitit.helpers import DelayedSubmission

        # the signal may have come in the middle of Popen's own bookkeeping, so it is left alone
        for process in self.running.values():
            if not _has_ended(process.pid):
                os.kill(process.pid, signal.SIGUSR1)
        until = time.monotonic() + 0.8 * self.seconds
        while time.monotonic() < until:
            if all(_has_ended(process.pid) for process in self.running.values()):
                break
            time.sleep(_POLL_SECONDS)
        return DelayedSubmission(Work(self.tasks, self.parallel, self.seconds))

    def _stop(self, *_: Any) -> None:
        """Start nothing more; the runs get the same signal from Slurm."""
        self.ends_at = time.monotonic() + self.seconds

    def _start(self, task: Task, slot: int) -> None:
        if why := task.held_back():
            print(why, flush=True)
            return
        self.running[slot] = subprocess.Popen(
            task.words(),
            env={**os.environ, **self._share(slot)},
            stdout=subprocess.DEVNULL,
            # Slurm sends submitit's signal to every process of a task, and it would end a run
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )

    def _share(self, slot: int) -> dict[str, str]:
        """The variables that give a job its part of the task's GPUs and cores.

        On a CPU a job has one thread, for its numbers depend on them.
        """
        gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK", 1)) if gpus else 1
        share = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        if "OMP_NUM_THREADS" not in os.environ:
            share["OMP_NUM_THREADS"] = str(max(1, cores // self.parallel))
        return share

    def _forget_ended(self) -> None:
        for slot, process in list(self.running.items()):
            if _has_ended(process.pid):
                process.wait()
                del self.running[slot]


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, leaving it to be waited for."""
    try:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:  # waited for already
        return True
