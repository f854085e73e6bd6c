"""Ray: each job a task, on an existing cluster or a local one, started when its needs are done.

What was lost with its node is tried again elsewhere, where it goes on from the state it saved. All
nodes see the same files and have the same Python installed. The tasks end with the launcher.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from domainbed.command_launchers.options import read_options
from domainbed.command_launchers.tasks import Task
from domainbed.jobs import Job
from domainbed.registry import InputError
from domainbed.runs import RunFolder

_CARRIED = ("DOMAINBED_", "OMP_NUM_THREADS", "PYTHONPATH")
_LOCK_SECONDS = 60


@dataclass(frozen=True)
class RayOptions:
    """What `--launcher_options` may say."""

    address: str = "local"  # host:port, auto or ray://host:port of a cluster; local starts one
    num_cpus: float = 1.0  # of a job
    num_gpus: float | None = None  # of a job, such as 0.5
    max_retries: int = 3  # of a job that was lost with its node


def read(options: Mapping[str, Any]) -> RayOptions:
    """Check options; raises `InputError` for a wrong one."""
    return read_options(RayOptions, options, "ray")


def launch_graph(waves: Sequence[Sequence[Job]], options: Mapping[str, Any], root: str) -> bool:
    """Run the jobs, each when those that it needs have ended; True, for all have ended then.

    waves: jobs that are not done, those of a wave in need only of earlier ones. Raises
    `InputError` for a wrong option and where Ray or its cluster is missing.
    """
    chosen = read(options)
    with _connected(chosen):
        do = _remote(chosen)
        results: dict[str, Any] = {}
        for job in (job for wave in waves for job in wave):
            needs = [need.job.output_dir for need in job.needs]
            after = [results[name] for name in needs if name in results]
            results[job.output_dir] = do(Task.of(job), *after)
        _wait(list(results.values()))
    return True


def ray_launcher(commands: list[str]) -> None:
    """Run the commands on a local cluster with all options' defaults."""
    chosen = RayOptions()
    with _connected(chosen):
        do = _remote(chosen)
        _wait([do(Task(command)) for command in commands])


ray_launcher.launch_graph = launch_graph  # type: ignore[attr-defined]
ray_launcher.check_options = read  # type: ignore[attr-defined]


@contextmanager
def _connected(options: RayOptions) -> Iterator[None]:
    """Connect to the cluster, or start one that ends with the jobs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--command_launcher ray needs Ray; "
            'install it with pip install "domainbed-ratatouille[ray]"'
        ) from error
    try:
        _check_listening(options.address)
        ray.init(address=options.address, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Ray's cluster {options.address!r} cannot be reached "
            f"({str(error).splitlines()[0]}); give --launcher_options address=HOST:PORT"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise OSError where nothing listens at host:port, for which Ray waits ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _remote(options: RayOptions) -> Any:
    """A function of a task, and of results to await, that returns the result to come."""
    import ray

    resources = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    run = ray.remote(max_retries=options.max_retries, **resources)(_run)
    carried = {key: value for key, value in os.environ.items() if key.startswith(_CARRIED)}
    folder = os.getcwd()
    return lambda task, *after: run.remote(task, folder, carried, *after)


def _wait(results: list[Any]) -> None:
    """Wait for all, and say what was lost."""
    import ray

    while results:
        ended, results = ray.wait(results)
        for result in ended:
            try:
                ray.get(result)
            except ray.exceptions.RayError as error:
                print(f"Ray lost a job: {str(error).strip().splitlines()[0]}", file=sys.stderr)


def _run(task: Task, folder: str, variables: Mapping[str, str], *_: None) -> None:
    """Run a job on this node, in the folder and with the variables of the launcher."""
    until = time.monotonic() + _LOCK_SECONDS
    while task.folder and RunFolder(task.folder).is_locked() and time.monotonic() < until:
        time.sleep(0.5)  # a run whose worker was lost is saving its state
    if why := task.held_back():
        print(why)
        return
    subprocess.run(
        [sys.executable, "-c", _END_WITH_PARENT, *task.words()],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        check=False,
    )


_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
os.execvp(sys.argv[1], sys.argv[1:])
"""
