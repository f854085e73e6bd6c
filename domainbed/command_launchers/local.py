"""One process for each job, one after another."""

from __future__ import annotations

import shlex
import subprocess
import sys


def arguments(command: str) -> list[str]:
    """A job's shell command as a list of arguments, with this very Python in front."""
    words = shlex.split(command)
    return [sys.executable, *words[1:]] if words[:1] == ["python"] else words


def local_launcher(commands: list[str]) -> None:
    """Run the commands in turn."""
    for command in commands:
        subprocess.run(arguments(command), stdout=subprocess.DEVNULL, check=False)


def dummy_launcher(commands: list[str]) -> None:
    """Print the commands and run none."""
    for command in commands:
        print(command)


dummy_launcher.only_prints = True  # type: ignore[attr-defined]
