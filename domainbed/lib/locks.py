"""Locks that hold on any file system, shared ones without flock included.

A lock is a file that says which process holds it. Its modification time is the holder's heartbeat.
A process that can be seen from here is asked whether it lives; one on another host, or in another
container, is taken for dead when its heartbeat is `STALE_SECONDS` old. Only creating a file that is
not there and renaming one have to be atomic.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from domainbed.lib.files import read_regular
from domainbed.registry import InputError

BEAT_SECONDS, STALE_SECONDS = 20.0, 300.0
"""Between two heartbeats; since the last one of a holder that is taken for dead."""


class Locked(InputError):
    """Somebody else holds the lock."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock; `place` is shared by those that see each other's ids."""

    host: str
    place: str
    pid: int
    started: str
    token: str

    @staticmethod
    def new() -> Holder:
        """This process, as the holder of one more lock."""
        pid = os.getpid()
        return Holder(platform.node(), _place(), pid, _started(pid) or "", uuid.uuid4().hex)

    def is_alive(self) -> bool | None:
        """Whether the process lives; None if that cannot be told from here."""
        if not self.place or self.place != _place():
            return None
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:
            pass  # there, and another user's
        started = _started(self.pid)
        return started == self.started if started else None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """Held by one `with` block at a time, wherever it runs.

    seconds: how long to try, and longer where a holder seems to have died; raises `Locked` then.
    on_loss: called, by another thread, if somebody took the lock from a holder that was silent for
    too long.
    """

    def __init__(
        self, path: Path, seconds: float = 0.0, on_loss: Callable[[], Any] = lambda: None
    ) -> None:
        self.path, self.seconds, self.on_loss = path, seconds, on_loss

    def __enter__(self) -> Lock:
        self._own, self._released = Holder.new(), threading.Event()
        try:
            self._wait()
        except BaseException:  # a signal may come right after the file was made
            self.__exit__()
            raise
        threading.Thread(target=self._beat, args=(self._released,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if holder_of(self.path) == self._own:
            self.path.unlink(missing_ok=True)

    def _wait(self) -> None:
        until = time.monotonic() + self.seconds
        while not (_create(self.path, self._own) or self._take_over()):
            if time.monotonic() >= until and not _is_late(self.path):
                by = f"by {holder}" if (holder := holder_of(self.path)) else "elsewhere"
                raise Locked(f"{self.path.parent} is being worked on {by}; wait for it, or stop it")
            time.sleep(0.05)

    def _take_over(self) -> bool:
        """Replace a dead holder; who creates the guard first may look, and may become the lock."""
        guard = self.path.with_name(f"{self.path.name}.next")
        if not is_dead(self.path):
            return False
        if not _create(guard, self._own):
            if is_dead(guard):
                guard.unlink(missing_ok=True)
            return False
        # both times are the file system's own, whatever the clocks of hosts say
        if is_dead(self.path, guard.stat().st_mtime):
            os.replace(guard, self.path)
            return True
        guard.unlink()
        return False

    def _beat(self, released: threading.Event) -> None:
        while not released.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a file system that is away for a while
                if _read(self.path) != self._own and not released.is_set():
                    return self.on_loss()
                os.utime(self.path)


def is_held(path: Path) -> bool:
    """Whether somebody who seems to live holds the lock."""
    return path.exists() and not is_dead(path)


def is_dead(path: Path, now: float | None = None, after: float | None = None) -> bool:
    """Whether a lock is there and its holder is dead.

    now: the present time of the file system; default: this host's clock. after: seconds of silence
    that tell so of a holder that cannot be seen; default: `STALE_SECONDS`.
    """
    holder = holder_of(path)
    alive = holder.is_alive() if holder else None
    if alive is not None:
        return not alive
    try:
        beat = path.stat().st_mtime
    except FileNotFoundError:
        return False
    silent = (time.time() if now is None else now) - beat
    return silent > (STALE_SECONDS if after is None else after)


def _is_late(path: Path) -> bool:
    """Whether heartbeats are missing, so that the lock may soon be free."""
    return is_dead(path, after=2 * BEAT_SECONDS)


def holder_of(path: Path) -> Holder | None:
    """Who holds a lock; None if nobody does, or the file cannot be read or does not say."""
    try:
        return _read(path)
    except OSError:
        return None


def _read(path: Path) -> Holder | None:
    try:
        holder = Holder(**json.loads(read_regular(path)))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    return holder if type(holder.pid) is int and holder.pid > 0 else None


def _create(path: Path, holder: Holder) -> bool:
    """Write a file that is not there; False if it is."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(file, "wb") as stream:
            stream.write(json.dumps(asdict(holder)).encode())
    except OSError:  # such as a full disk: a lock that says nothing would be waited for
        path.unlink(missing_ok=True)
        raise
    return True


def _place() -> str:
    """What processes that see each other's ids have in common; "" where nothing is known to."""
    if os.name != "posix":
        return ""
    try:  # a boot of a machine, and a container there
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str | None:
    """When a process started, as the kernel counts; "ended" for one that has, None for unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return "ended" if fields[0] in ("Z", "X") else fields[19]
