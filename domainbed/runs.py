"""A run folder: the only thing that jobs exchange.

    run.json            what runs here: args, hparams, protocol, provenance, code version
    results.jsonl       one record a line
    out.txt, err.txt    what was said
    model.safetensors   the last weights; model_best.safetensors those best by ID validation;
                        model_*.safetensors others that an algorithm or an option asks for
    state.json          with state-<step>.pt: what an interrupted run goes on from
    failed              why the run ended early, until it is started again
    done                written last, and only by a run that finished

Single files appear whole, by rename. A lock tells a running job from an interrupted one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from domainbed.lib.files import sha256_of
from domainbed.registry import InputError

NOT_LAUNCHED = "Not launched"
INCOMPLETE = "Incomplete"
RUNNING = "Running"
FAILED = "Failed"
DONE = "Done"

LAST = "model.safetensors"
BEST = "model_best.safetensors"
STATE = "state.json"


def write_atomic(path: Path, text: str) -> None:
    """Write a text file that appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        except FileNotFoundError:
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
        return sum(entry.stat().st_size for entry in os.scandir(self.path) if entry.is_file())

    def lock(self) -> FileLock:
        """The lock that a running job holds; it is released when its process ends, however."""
        return FileLock(self.path / ".lock")

    def is_locked(self) -> bool:
        """Whether some process is running this job now."""
        if not (self.path / ".lock").exists():
            return False
        try:
            with self.lock().acquire(timeout=0):
                return False
        except Timeout:
            return True

    def create(self) -> None:
        """Make the folder; raises `InputError` where it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / ".writable", "")
            (self.path / ".writable").unlink()
        except OSError as error:
            raise InputError(
                f"--output_dir {str(self.path)!r} cannot be written ({error.strerror}); "
                "give a folder that you may write to"
            ) from error

    def begin(self, description: Mapping[str, Any]) -> None:
        """Clear what an interrupted run left and say what runs here now."""
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
        """What run.json says; {} where it is missing, as in a folder of public DomainBed."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(f"{self.path / 'run.json'} is damaged: {error}") from error

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record to results.jsonl."""
        with open(self.path / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record, sort_keys=True, allow_nan=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records of this run."""
        with open(self.path / "results.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def fail(self, reason: str) -> None:
        """Mark the run as failed, with the reason in `failed` and at the end of err.txt."""
        with open(self.path / "err.txt", "a", encoding="utf-8") as file:
            file.write(reason + "\n")
        write_atomic(self.path / "failed", reason + "\n")

    def failure(self) -> str:
        """Why the run failed, in one line; "" if it did not."""
        try:
            return (self.path / "failed").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""

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
        files = {path.name: sha256_of(path) for path in sorted(self.path.glob("*.safetensors"))}
        self.describe({**self.description(), "files": files})
        write_atomic(self.path / "done", "done")
        for file in self.path.glob("state*"):
            file.unlink(missing_ok=True)
