"""One process for each job, one after another."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from domainbed.runs import RunFolder

_POLL_SECONDS = 0.05
_CRASHES = {signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV}
_CRASHES |= {signal.SIGBUS} if os.name == "posix" else set()


def arguments(command: str) -> list[str]:
    """A job's shell command as a list of arguments, with this very Python in front."""
    words = shlex.split(command)
    return [sys.executable, *words[1:]] if words[:1] == ["python"] else words


def run_all(commands: Sequence[str], slots: Sequence[Mapping[str, str]]) -> None:
    """Run commands, one at a time in each slot, with its variables; return when all have ended.

    An interruption ends those that run, their state saved.
    """
    waiting = [arguments(command) for command in reversed(commands)]
    running: dict[int, subprocess.Popen] = {}
    try:
        while waiting or running:
            for slot, variables in enumerate(slots):
                if slot in running and running[slot].poll() is not None:
                    note_crash(running[slot].args, running.pop(slot).returncode)
                if waiting and slot not in running:
                    running[slot] = start(waiting.pop(), variables)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
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
    run_all(commands, [{}])


def dummy_launcher(commands: list[str]) -> None:
    """Print the commands and run none."""
    for command in commands:
        print(command)


dummy_launcher.only_prints = True  # type: ignore[attr-defined]
