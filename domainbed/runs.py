"""A run folder: the only thing that jobs exchange.

    run.json            what runs here: args, hparams, protocol, provenance, code version
    results.jsonl       one record a line
    out.txt, err.txt    what was said
    model.safetensors   the last weights; model_best.safetensors those best by ID validation;
                        model_*.safetensors others that an algorithm or an option asks for
    state.json          with state-<step>.pt: what an interrupted run goes on from
    failed              why the run ended early, until it is started again
    tries.jsonl         exit code and reason of every time that it failed
    done                written last, and only by a run that finished
    .lock               who is running it now, touched while that lives

Single files appear whole, by rename.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from domainbed.lib import locks
from domainbed.lib.files import flushed, read_regular, read_text, replacing, sha256_of
from domainbed.registry import InputError

NOT_LAUNCHED = "Not launched"
INCOMPLETE = "Incomplete"
RUNNING = "Running"
FAILED = "Failed"
DONE = "Done"

LAST = "model.safetensors"
BEST = "model_best.safetensors"
STATE = "state.json"
LOCK = ".lock"
DAMAGED = "damaged"
"""Where damaged run folders are set aside, beside the others."""

ASIDE = "aside"
"""Where runs of a sweep that others took the place of are kept, beside its folders."""

BEFORE = "results.before.jsonl"
"""The records of a run that was interrupted without a state, and started anew."""

_JOB_ID = re.compile("[0-9a-f]{32}")
_SIGNS = {"run.json", "results.jsonl", "failed", "done", "err.txt"}


def write_atomic(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        flushed(temporary)


class RunFolder:
    """The folder of one run, existing or to be."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def is_done(self) -> bool:
        """Whether the run finished."""
        return (self.path / "done").exists()

    def ended(self) -> float | None:
        """When the run got done, in seconds of the epoch; None for one that did not."""
        try:
            return (self.path / "done").stat().st_mtime
        except OSError:
            return None

    def state(self) -> str:
        """One of `NOT_LAUNCHED`, `INCOMPLETE`, `RUNNING`, `FAILED`, `DONE`."""
        if self.is_done:
            return DONE
        if not self.path.exists():
            return NOT_LAUNCHED
        if self.is_locked():
            return RUNNING
        return FAILED if (self.path / "failed").exists() else INCOMPLETE

    def size(self) -> int:
        """Bytes of the files in this folder."""
        if not self.path.is_dir():
            return 0
        n_bytes = 0
        for entry in os.scandir(self.path):
            with contextlib.suppress(OSError):  # removed meanwhile, or a link to itself
                n_bytes += entry.stat().st_size if entry.is_file() else 0
        return n_bytes

    def lock(self, seconds: float = 0.0, on_loss: Callable[[], Any] = lambda: None) -> locks.Lock:
        """The lock that a running job holds; see `locks.Lock`."""
        return locks.Lock(self.path / LOCK, seconds, on_loss)

    def is_locked(self) -> bool:
        """Whether some process is running this job now."""
        return locks.is_held(self.path / LOCK)

    def holder(self) -> locks.Holder | None:
        """Which process is running this job, if it says so."""
        return locks.holder_of(self.path / LOCK)

    def create(self) -> None:
        """Make the folder; raises `InputError` where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"--output_dir {str(self.path)!r} cannot be written ({error.strerror}); "
                "give a folder that you may write to"
            ) from error

    def holds_work(self) -> bool:
        """Whether a run has got so far here that it would be a loss."""
        names = ("done", "results.jsonl", STATE)
        return any(os.path.lexists(self.path / name) for name in names)

    def move_aside(self) -> Path:
        """Move all files of a run to a folder of its own; return that.

        It is `<folder>.<n>`, or for a job of a sweep, whose tables read all folders beside it,
        `aside/<folder>.<n>`. The lock stays.
        """
        place = self.path
        if _JOB_ID.fullmatch(place.name):
            place = place.with_name(ASIDE) / place.name
            place.parent.mkdir(exist_ok=True)
        n = 1
        while (aside := place.with_name(f"{place.name}.{n}")).exists():
            n += 1
        aside.mkdir()
        for file in self.path.iterdir():
            if not file.name.startswith(LOCK):
                os.replace(file, aside / file.name)
        return aside

    def begin(self, description: Mapping[str, Any]) -> None:
        """Clear what an interrupted run left, but its records, and say what runs here now."""
        with contextlib.suppress(FileNotFoundError):
            if (self.path / "results.jsonl").stat().st_size:
                os.replace(self.path / "results.jsonl", self.path / BEFORE)
        for leftover in ("done", "failed", "results.jsonl", LAST, BEST, "out.txt", "err.txt"):
            (self.path / leftover).unlink(missing_ok=True)
        for pattern in ("model_*.safetensors", "state*", ".*.tmp"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)
        self.describe(description)

    def go_on(self, n_bytes: int) -> None:
        """Clear what an interrupted run did after its state, when its records had `n_bytes`."""
        for leftover in [self.path / "failed", *self.path.glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)
        if (self.path / "results.jsonl").exists():
            os.truncate(self.path / "results.jsonl", n_bytes)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write run.json."""
        write_atomic(self.path / "run.json", json.dumps(description, indent=2, sort_keys=True))

    def description(self) -> dict[str, Any]:
        """What run.json says; {} where it is missing, as in a folder of public DomainBed.

        Raises `InputError` for one that cannot be read or holds no JSON object.
        """
        file = self.path / "run.json"
        try:
            description = json.loads(read_regular(file))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} is damaged: {error}") from error
        if not isinstance(description, dict):
            raise InputError(f"{file} is damaged: it holds no JSON object")
        return description

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record to results.jsonl."""
        with open(self.path / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record, sort_keys=True, allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records of this run."""
        with open(self.path / "results.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def fail(self, reason: str, exit_code: int = 1) -> None:
        """Mark the run as failed, with the reason in `failed` and at the end of err.txt."""
        once_more = json.dumps({"exit_code": exit_code, "reason": reason}) + "\n"
        try:
            for name, text in (("err.txt", reason + "\n"), ("tries.jsonl", once_more)):
                with open(self.path / name, "a", encoding="utf-8") as file:
                    file.write(text)
            write_atomic(self.path / "failed", reason + "\n")
        except OSError as error:  # such as a full disk, which may be the reason itself
            print(f"{self.path} cannot tell that the run failed: {error}", file=sys.stderr)

    def failure(self) -> str:
        """Why the run failed, in one line; "" if it did not."""
        try:
            return read_text(self.path / "failed").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"the reason cannot be read ({error.strerror})"

    def tries(self) -> tuple[int, int | None]:
        """How often the run failed, and the last exit code."""
        try:
            lines = read_text(self.path / "tries.jsonl").splitlines()
            return len(lines), json.loads(lines[-1])["exit_code"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return 0, None

    def last_errors(self, n: int = 3) -> list[str]:
        """The last lines of err.txt."""
        try:
            text = read_text(self.path / "err.txt")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-n:]

    def drop_weights(self, kept: Collection[str]) -> int:
        """Remove weights but for those of these names; return the bytes freed."""
        dropped = [path for path in self.path.glob("*.safetensors") if path.name not in kept]
        if not dropped:
            return 0
        description = self.description()
        gone = {path.name for path in dropped}
        files = {k: v for k, v in description.get("files", {}).items() if k not in gone}
        self.describe({**description, "files": files})
        freed = sum(path.stat().st_size for path in dropped)
        for path in dropped:
            path.unlink()
        return freed

    def finish(self) -> None:
        """Mark the run as done; run.json tells the sha256 of its weights from then on."""
        weights = sorted(self.path.glob("*.safetensors"))
        for path in [*weights, *self.path.glob("results.jsonl")]:
            flushed(path)
        files = {path.name: sha256_of(path) for path in weights}
        self.describe({**self.description(), "files": files})
        write_atomic(self.path / "done", "done")
        for file in self.path.glob("state*"):
            file.unlink(missing_ok=True)

    def delete(self) -> bool:
        """Remove a run unless it is done; whether it was. Raises `Locked` if it is running."""
        with self.lock():
            if self.is_done:
                return False
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != LOCK:
                    entry.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a job may have begun in it by now
            self.path.rmdir()
        return True


def run_folders(root: str | Path) -> Iterator[RunFolder]:
    """Every run folder under `root`, probes' and auxiliary runs' included, by name.

    Links are not followed.
    """
    for path, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in (DAMAGED, ASIDE))
        if _SIGNS & set(files):
            names.clear()
            yield RunFolder(path)
