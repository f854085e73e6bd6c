"""A real Slurm cluster of one node on loopback, without systemd: for a command, or for tests.

    python tests/slurm/cluster.py COMMAND [ARGUMENT ...]

starts munged, slurmctld and slurmd (Debian: slurm-wlm, munge) in a temporary folder, runs the
command with SLURM_CONF set, and ends every daemon and job again.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
N_CPUS = 2
MAX_ARRAY_SIZE = 4
_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
# a job that is requeued waits until its old credential has expired
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=1,sched_interval=1
MaxArraySize={max_array_size}
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=loopback NodeHostname={host} NodeAddr=127.0.0.1 CPUs={n_cpus} State=UNKNOWN
PartitionName=main Nodes=loopback Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that a cluster needs and that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Run a cluster; yields the environment variables that its clients need."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 107 bytes at most
    folder.chmod(0o711)  # or munged refuses it
    daemons: list[subprocess.Popen] = []
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    environment = {**os.environ, **variables, "PATH": _PATH}
    try:
        for command in _commands(folder):
            with open(folder / f"{command[0]}.out", "w") as out:
                options = {"stdout": out, "stderr": out, "start_new_session": True}
                daemons.append(subprocess.Popen(command, env=environment, **options))
            if command[0] == "munged":
                _wait(folder, daemons, (folder / "munge.socket").exists)
        _wait(folder, daemons, lambda: _is_idle(environment))
        try:
            yield variables
        finally:
            _cancel_all(environment)
    finally:
        for daemon in reversed(daemons):
            _end(daemon)
        shutil.rmtree(folder, ignore_errors=True)


def _commands(folder: Path) -> list[list[str]]:
    """Write the configuration; return the daemons' commands in order, none of which forks."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(
        _CONF.format(
            folder=folder,
            host=host,
            ports=ports,
            user=getpass.getuser(),
            n_cpus=N_CPUS,
            max_array_size=MAX_ARRAY_SIZE,
        )
    )
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    munged = ["munged", "--foreground"]
    for option, name in {
        "--socket": "munge.socket",
        "--key-file": "key",
        "--pid-file": "munged.pid",
        "--log-file": "munge.log",
        "--seed-file": "seed",
    }.items():
        munged.append(f"{option}={folder / name}")
    slurmd = ["slurmd", "-D", "-N", "loopback", "-f", str(conf)]
    return [munged, ["slurmctld", "-D", "-f", str(conf)], slurmd]


def _is_idle(environment: dict[str, str]) -> bool:
    command = ["sinfo", "--noheader", "--format=%T"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "idle"


def _wait(folder: Path, daemons: list[subprocess.Popen], is_there) -> None:
    until = time.monotonic() + 60
    while not is_there():
        dead = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]  # type: ignore
        if dead or time.monotonic() > until:
            logs = "\n".join(
                f"{said.name}: {said.read_text(errors='replace')[-2000:]}"
                for said in sorted(folder.glob("*.out"))
            )
            raise RuntimeError(f"the cluster did not start ({dead} ended early)\n{logs}")
        time.sleep(0.2)


def _cancel_all(environment: dict[str, str]) -> None:
    """End all jobs, so that no job's process outlives the daemons."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        for _ in range(60):
            queue = ["squeue", "--noheader", "--format=%i"]
            answer = subprocess.run(
                queue, env=environment, capture_output=True, text=True, timeout=20, check=False
            )
            if not answer.stdout.strip():
                return
            subprocess.run(
                ["scancel", f"--user={getpass.getuser()}"],
                env=environment,
                capture_output=True,
                timeout=20,
                check=False,
            )
            time.sleep(0.5)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def main(argv: list[str]) -> int:
    """Run a command with a cluster; its exit code."""
    if absent := missing():
        print(f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with cluster() as variables:
        return subprocess.run(argv, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [os.environ.get("SHELL", "sh")]))
