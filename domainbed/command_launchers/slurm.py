"""Slurm, through submitit: an array of jobs for each wave of a sweep, and nothing to wait for.

An array starts when those that hold what its jobs need have ended, however they ended. Shortly
before its time is over, a task has its runs save their state and goes back into the queue. What
was submitted is noted in the sweep's folder `slurm`, beside submitit's files and logs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domainbed.command_launchers.node import Work
from domainbed.command_launchers.options import read_options
from domainbed.command_launchers.tasks import Task
from domainbed.jobs import Job
from domainbed.lib.locks import Lock
from domainbed.registry import InputError
from domainbed.runs import DONE, RUNNING, write_atomic

LEDGER = "submitted.json"


@dataclass(frozen=True)
class SlurmOptions:
    """What `--launcher_options` may say; what is None is left to Slurm."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    time: int = 720  # minutes of a task, after which it goes back into the queue
    cpus: int | None = field(default=None, metadata={"most": 4096})  # of a task
    gpus: int | None = field(default=None, metadata={"most": 1024})  # of a task
    mem: str | None = None  # of a task, such as 16GB
    throttle: int | None = None  # tasks that may run at once
    jobs_per_task: int = field(default=1, metadata={"most": 100_000})
    # jobs of a task that run at once, and share its GPUs and cores
    parallel: int = field(default=1, metadata={"most": 4096})
    signal_seconds: int = 90  # before the end of a task, for its runs to save their state
    max_timeouts: int = 100  # after which a task isn't put back into the queue

    def parameters(self, root: Path, n_tasks: int, after: Sequence[str]) -> dict[str, Any]:
        """Submitit's parameters of an array that starts when the arrays `after` have ended."""
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "nodelist": self.nodelist,
            "exclude": self.exclude,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "mem": self.mem,
            # since Slurm 22.05 a step takes one core if it is not told again
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else None,
            "dependency": f"afterany:{':'.join(after)}" if after else None,
        }
        return {
            **{key: value for key, value in given.items() if value is not None},
            "job_name": root.name or "sweep",
            "time": self.time,
            "signal_delay_s": self.signal_seconds,
            "array_parallelism": min(self.throttle or n_tasks, n_tasks),
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True},
        }


def read(options: Mapping[str, Any]) -> SlurmOptions:
    """Check options; raises `InputError` for a wrong one."""
    return read_options(SlurmOptions, options, "slurm")


def launch_graph(waves: Sequence[Sequence[Job]], options: Mapping[str, Any], root: str) -> bool:
    """Submit what is not in the queue yet; False, for the jobs have not ended.

    waves: jobs that are not done, those of a wave in need only of earlier ones. Raises
    `InputError` for a wrong option, where Slurm or submitit is missing, and for what Slurm refuses;
    what was submitted until then is noted, and the next launch goes on from there.
    """
    queue = _Queue(Path(root).absolute(), read(options))
    with Lock(queue.folder / ".lock", math.inf):
        queue.look()
        for number, wave in enumerate(waves, 1):
            queue.submit(list(filter(queue.lacks, wave)), number)
    return False


def slurm_launcher(commands: list[str]) -> None:
    """Do the commands as one array with all options' defaults, and wait for its end.

    Logs are in the present folder's `slurm`.
    """
    queue = _Queue(Path.cwd(), SlurmOptions())
    works = [Work([Task(command)]) for command in commands]
    ids = {id_ for chunk in queue.chunks(works) for id_ in queue.submit_array(chunk, [])}
    while ids & in_queue():
        time.sleep(1)


slurm_launcher.launch_graph = launch_graph  # type: ignore[attr-defined]
slurm_launcher.check_options = read  # type: ignore[attr-defined]


class _Queue:
    """What of a sweep is in Slurm's queue, and what goes into it."""

    def __init__(self, root: Path, options: SlurmOptions) -> None:
        _check_installed()
        if not str(root).isprintable() or "%" in str(root):
            raise InputError(
                f"--output_dir {str(root)!r} has a character in its path that Slurm's names of "
                "files cannot have; give another folder"
            )
        self.root, self.options = root, options
        self.folder = root / "slurm"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.max_array_size = max_array_size()
        self.ids: dict[str, str] = {}

    def name(self, job: Job) -> str:
        """A job's name in the ledger, the same from whichever folder it is asked for."""
        return os.path.relpath(job.output_dir, self.root)

    def look(self) -> None:
        """Find the jobs of this sweep that are in the queue, and say so."""
        queued = in_queue()
        self.ids = {name: id_ for name, id_ in self._ledger().items() if id_ in queued}
        if self.ids:
            arrays = ", ".join(dict.fromkeys(map(array_of, self.ids.values())))
            print(
                f"{len(self.ids)} jobs are in the queue already, in {arrays}; not submitted again"
            )

    def lacks(self, job: Job) -> bool:
        """Whether a job is neither in the queue, nor runs elsewhere, nor ended since."""
        return self.name(job) not in self.ids and job.state not in (DONE, RUNNING)

    def submit(self, wave: Sequence[Job], number: int) -> None:
        """Submit the jobs of a wave, in as many arrays as Slurm's limit takes, and note their ids.

        With a throttle, each of these starts after the one before.
        """
        size = self.options.jobs_per_task
        groups = [wave[i : i + size] for i in range(0, len(wave), size)]
        before: list[str] = []
        for chunk in self.chunks(groups):
            needs = (self.ids.get(self.name(n.job)) for g in chunk for job in g for n in job.needs)
            after = dict.fromkeys(array_of(id_) for id_ in needs if id_)
            works = [
                Work(list(map(Task.of, g)), self.options.parallel, self.options.signal_seconds)
                for g in chunk
            ]
            ids = self.submit_array(works, [*before, *after])
            for group, id_ in zip(chunk, ids):
                self.ids.update((self.name(job), id_) for job in group)
            write_atomic(self.folder / LEDGER, json.dumps(self.ids, indent=2))
            array = array_of(ids[0])
            before = [array] if self.options.throttle else []
            print(
                f"wave {number}: {sum(map(len, chunk))} jobs in {len(ids)} tasks of {array}"
                + (f", after {', '.join(after)}" if after else ""),
                flush=True,
            )

    def chunks(self, items: Sequence[Any]) -> list[Sequence[Any]]:
        """Items in lists that fit into an array each."""
        size = self.max_array_size
        return [items[i : i + size] for i in range(0, len(items), size)]

    def submit_array(self, works: Sequence[Work], after: Sequence[str]) -> list[str]:
        """Submit one array; the ids of its tasks, such as 12_0."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = submitit.SlurmExecutor(self.folder, max_num_timeout=self.options.max_timeouts)
        try:
            executor.update_parameters(**self.options.parameters(self.root, len(works), after))
            return [job.job_id for job in executor.submit_array(works)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise InputError(
                f"Slurm refused {len(works)} tasks: {' '.join(str(error).split())}; see "
                "--launcher_options in docs/clusters.md, then launch again"
            ) from error

    def _ledger(self) -> dict[str, str]:
        try:
            return json.loads((self.folder / LEDGER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(
                f"{self.folder / LEDGER} is damaged ({error}); remove it once squeue shows no job "
                "of this sweep"
            ) from error


def array_of(id_: str) -> str:
    """The array that a task such as 12_0 is in."""
    return id_.split("_")[0]


def in_queue() -> set[str]:
    """The ids of this user's jobs and tasks of arrays that have not ended."""
    return set(_ask("squeue", "--me", "--array", "--noheader", "--format=%i").split())


def max_array_size() -> int:
    """How many tasks Slurm lets an array have."""
    for line in _ask("scontrol", "show", "config").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "MaxArraySize":
            return int(value)
    return 1


def _ask(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise InputError(
            f"`{' '.join(command)}` failed: {' '.join(answer.stderr.split())}; is Slurm running?"
        )
    return answer.stdout


def _check_installed() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--command_launcher slurm needs submitit; "
            'install it with pip install "domainbed-ratatouille[slurm]"'
        ) from error
    absent = [name for name in ("sbatch", "srun", "squeue", "scontrol") if not shutil.which(name)]
    if absent:
        raise InputError(
            f"--command_launcher slurm found no {' or '.join(absent)}; launch where Slurm's "
            "commands are on PATH, such as on a login node"
        )
