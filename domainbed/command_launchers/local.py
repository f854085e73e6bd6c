"""One process for each job, one after another."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys


def arguments(command: str) -> list[str]:
    """A job's shell command as a list of arguments, with this very Python in front."""
    words = shlex.split(command)
    return [sys.executable, *words[1:]] if words[:1] == ["python"] else words


def run(words: list[str], **environment: str) -> int:
    """Run a command and return its exit code; an interruption ends it, its state saved."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, env={**os.environ, **environment} if environment else None
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def local_launcher(commands: list[str]) -> None:
    """Run the commands in turn."""
    for command in commands:
        run(arguments(command))


def dummy_launcher(commands: list[str]) -> None:
    """Print the commands and run none."""
    for command in commands:
        print(command)


dummy_launcher.only_prints = True  # type: ignore[attr-defined]
