"""What launchers for clusters hand to another node: a job's command, and when to start it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from domainbed.command_launchers.local import arguments
from domainbed.jobs import Job
from domainbed.runs import RunFolder


@dataclass(frozen=True)
class Task:
    """A command and, if it is a job's, its run folder and those that must be done before.

    Paths are absolute; all nodes see the same files.
    """

    command: str
    folder: str | None = None
    needs: tuple[str, ...] = ()

    @staticmethod
    def of(job: Job) -> Task:
        """What there is to know of a job on another node."""
        needs = dict.fromkeys(os.path.abspath(need.job.output_dir) for need in job.needs)
        return Task(job.command_str, os.path.abspath(job.output_dir), tuple(needs))

    def words(self) -> list[str]:
        """The command as a list of arguments, with the Python of this node in front."""
        return arguments(self.command)

    def held_back(self) -> str | None:
        """Why there is nothing to start, in one line; None if there is."""
        if self.folder is None:
            return None
        if RunFolder(self.folder).is_done:
            return f"{self.folder} is done"
        waiting = [need for need in self.needs if not RunFolder(need).is_done]
        if not waiting:
            return None
        return (
            f"{self.folder} waits for {len(waiting)} of {len(self.needs)} runs that it needs, such "
            f"as {waiting[0]}; launch again when they are done"
        )
