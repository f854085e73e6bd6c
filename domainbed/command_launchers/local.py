"""One process for each job, one after another."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from domainbed.runs import RunFolder

_POLL_SECONDS = 0.05
_CRASHES = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_CRASHES |= {signal.SIGBUS} if os.name == "posix" else set()


def arguments(command: str) -> list[str]:
    """A job's shell command as a list of arguments, with this very Python in front."""
    words = shlex.split(command)
    return [sys.executable, *words[1:]] if words[:1] == ["python"] else words


class Queue(Protocol):
    """Jobs to be done, one by one, such as `domainbed.launching.Queue`."""

    def take(self) -> str | None:
        """The next command; None if there is none now."""

    def ended(self, command: str, seconds: float) -> None:
        """Note that a command ended, and how long it took."""


class Commands:
    """A queue of commands that wait for nothing."""

    def __init__(self, commands: Sequence[str]) -> None:
        self._left = list(reversed(commands))

    def take(self) -> str | None:
        """The next command."""
        return self._left.pop() if self._left else None

    def ended(self, command: str, seconds: float) -> None:
        """Nothing follows."""


def run_queue(queue: Queue, slots: Sequence[Mapping[str, str]]) -> None:
    """Run commands, one at a time in each slot, with its variables; return when all have ended.

    An interruption ends those that run, their state saved.
    """
    running: dict[int, tuple[str, subprocess.Popen, float]] = {}
    try:
        while True:
            for slot, variables in enumerate(slots):
                if slot in running and running[slot][1].poll() is not None:
                    command, process, since = running.pop(slot)
                    note_crash(process.args, process.returncode)
                    queue.ended(command, time.monotonic() - since)
                if slot not in running and (next_one := queue.take()) is not None:
                    process = start(arguments(next_one), variables)
                    running[slot] = next_one, process, time.monotonic()
            if not running:
                return
            time.sleep(_POLL_SECONDS)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def start(words: list[str], variables: Mapping[str, str]) -> subprocess.Popen:
    """Start a command whose console is its run folder's."""
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, **variables})


def note_crash(words: Any, code: int | None) -> None:
    """Mark a job's run as failed if its process crashed, which it could not do by itself."""
    if code is None or -code not in _CRASHES or "--output_dir" not in words:
        return
    folder = RunFolder(words[words.index("--output_dir") + 1])
    if folder.path.exists() and not folder.is_done:
        folder.fail(f"its process crashed ({signal.Signals(-code).name})", code)


def local_launcher(commands: list[str]) -> None:
    """Run the commands in turn."""
    run_queue(Commands(commands), [{}])


local_launcher.launch_queue = lambda queue, _: run_queue(queue, [{}])  # type: ignore[attr-defined]


def dummy_launcher(commands: list[str]) -> None:
    """Print the commands and run none."""
    for command in commands:
        print(command)


dummy_launcher.only_prints = True  # type: ignore[attr-defined]
