"""The state of a training run, kept so that one that is interrupted goes on where it was.

    state-<step>.pt        all that the algorithm keeps, random generators, the window of metrics
    state-<step>.model*    second names of the weights that were kept by then
    state.json             which of them count, their sha256, and the run of that; written last

Which samples a step draws depends on the seed and the step alone, so their streams have no state.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domainbed import __version__
from domainbed.engine import restoring, state
from domainbed.engine.options import Options
from domainbed.lib.files import flushed, replacing, sha256_of
from domainbed.runs import STATE, RunFolder, write_atomic

logger = logging.getLogger(__name__)

EXIT_CODE = 75
"""Of a command that was interrupted and saved its state; 75 asks to be tried again later."""

LEAST_SECONDS, MOST_SECONDS = 5.0, 600.0
"""Between two states: at checkpoints, where what may be lost is cheaper than saving; anywhere."""

FORMAT = 2
"""Of states; one of another format is not used."""

SHARE = 0.01
"""Of the time of training, what saving states at checkpoints may take."""

_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if os.name == "posix" else [])]


class Interrupted(KeyboardInterrupt):
    """A signal ended a run, whose state is saved if it was training."""


class _Stop:
    """Whether a signal asked to stop; a run that is training saves its state first."""

    def __init__(self) -> None:
        self.is_asked, self.is_training, self.is_lost = False, False, False

    def ask(self, *_: Any) -> None:
        """Stop after this update, or at once outside of training."""
        self.is_asked = True
        if not self.is_training and threading.current_thread() is threading.main_thread():
            raise Interrupted

    def lose(self) -> None:
        """Stop without writing anything more: another process has taken the run over."""
        logger.error("another process took this run over, since this one was silent for so long")
        self.is_lost = True
        self.ask()


STOP = _Stop()


@contextmanager
def listening() -> Iterator[None]:
    """Let signals ask to stop meanwhile, where this is the main thread."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, STOP.ask) for number in _SIGNALS} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        STOP.is_asked = STOP.is_lost = False


@dataclass(frozen=True)
class State:
    """A saved state: what training needs, and how long results.jsonl was."""

    content: dict[str, Any]
    n_bytes: int


class Keeper:
    """Saves the state of a run when it is due."""

    def __init__(self, folder: RunFolder, options: Options, algorithm: torch.nn.Module) -> None:
        self.folder, self.options = folder, options
        self.made = state.Made(algorithm)
        self.hashes: dict[tuple[str, int, int], str] = {}
        self.is_refused = False
        given = options.checkpoint_seconds
        self.most = MOST_SECONDS if given is None else given
        self.saved_at, self.cost = time.monotonic(), 0.0

    def is_due(self, at_checkpoint: bool) -> bool:
        """Whether to save now, after an update or a checkpoint."""
        least = min(max(LEAST_SECONDS, self.cost / SHARE), self.most)
        gap = least if at_checkpoint else self.most
        return STOP.is_asked or time.monotonic() - self.saved_at >= gap

    def save(self, step: int, algorithm: torch.nn.Module, content: dict[str, Any]) -> None:
        """Write the state after an update; raises `Interrupted` if a signal asked to stop.

        Where it cannot be written, the last one stays.
        """
        if STOP.is_lost:
            raise Interrupted
        start = time.monotonic()
        note = "run it again to go on"
        try:
            everything = {
                **content,
                "step": step,
                "algorithm": state.saved(algorithm, self.made),
                "generators": _generators(),
            }
            self._write(step, everything)
        except state.CannotSave as error:
            note = "it cannot go on, so it starts anew when it is run again"
            if not self.is_refused:
                logger.warning("if this run is interrupted, %s: %s", note, error)
            self.is_refused = True
        except (OSError, RuntimeError) as error:  # torch's own error tells of a full disk, too
            note = "its state could not be saved"
            logger.warning("%s after step %d (%s)", note, step, error)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start
        if STOP.is_asked:
            logger.info("interrupted after step %d; %s", step, note)
            raise Interrupted

    def _write(self, step: int, everything: dict[str, Any]) -> None:
        path = self.folder / f"state-{step}.pt"
        with replacing(path) as temporary:
            torch.save(everything, temporary)
            flushed(temporary)
        results = self.folder / "results.jsonl"
        about = {
            **_identity(self.options),
            "file": path.name,
            "sha256": sha256_of(path),
            "n_bytes": flushed(results).stat().st_size if results.exists() else 0,
            "weights": self._weights(step),
        }
        write_atomic(self.folder / STATE, json.dumps(about, indent=2, sort_keys=True))
        kept = {path.name, *(str(each["file"]) for each in about["weights"].values())}
        for other in self.folder.path.glob("state-*"):
            if other.name not in kept:
                other.unlink(missing_ok=True)

    def _weights(self, step: int) -> dict[str, dict[str, str]]:
        """The weights that count so far: a second name, which lasts until the next state, and hash.

        Under their own name they may be replaced before this run is interrupted.
        """
        found = {}
        for path in sorted(self.folder.path.glob("model*.safetensors")):
            about = path.stat()
            key = path.name, about.st_mtime_ns, about.st_size
            if key not in self.hashes:
                self.hashes[key] = sha256_of(flushed(path))
            second = self.folder / f"state-{step}.{path.stem}"
            second.unlink(missing_ok=True)
            _link(path, second)
            found[path.name] = {"file": second.name, "sha256": self.hashes[key]}
        return found


def _link(path: Path, second: Path) -> None:
    """Give a file a second name, or copy it where the file system knows no links."""
    try:
        os.link(path, second)
    except OSError:
        shutil.copyfile(path, second)


def find(folder: RunFolder, options: Options, device: torch.device | str) -> State | None:
    """The state that an interrupted run of these very arguments left; None for none that is sound.

    It is read by torch's weights-only loader.
    """
    try:
        about = json.loads((folder / STATE).read_text(encoding="utf-8"))
        path = folder / Path(about["file"]).name
        n_bytes = int(about["n_bytes"])
        if {key: about.get(key) for key in _identity(options)} != _identity(options):
            reason = "it is of other arguments or another version"
        elif sha256_of(path) != about["sha256"]:
            reason = "it is damaged"
        elif n_bytes and (folder / "results.jsonl").stat().st_size < n_bytes:
            reason = "records that were written before it are lost"
        elif lost := _lost_weights(folder, about["weights"]):
            reason = f"{lost} that were kept with it are lost or damaged"
        else:
            content = torch.load(path, map_location=device, weights_only=True)
            _take_back(folder, about["weights"])
            return State(content, n_bytes)
    except FileNotFoundError:
        if not (folder / STATE).exists():
            return None
        reason = "a file is missing"
    except Exception as error:  # whatever is in the files, a run can start anew
        reason = f"it cannot be read ({type(error).__name__})"
    logger.warning("the state in %s is not used, since %s; starting anew", folder.path, reason)
    return None


def _lost_weights(folder: RunFolder, weights: dict[str, dict[str, str]]) -> str:
    """Names of weights that are not what a state says, "" for none."""
    kept = {name: folder / Path(about["file"]).name for name, about in weights.items()}
    return ", ".join(
        name
        for name, path in kept.items()
        if not path.is_file() or sha256_of(path) != weights[name]["sha256"]
    )


def _take_back(folder: RunFolder, weights: dict[str, dict[str, str]]) -> None:
    """Give the weights of a state their own names again, and remove later ones."""
    for path in folder.path.glob("model*.safetensors"):
        path.unlink()
    for name, about in weights.items():
        _link(folder / Path(about["file"]).name, folder / Path(name).name)


def restore(found: State, algorithm: torch.nn.Module) -> None:
    """Load weights, all else that the algorithm keeps, and random generators."""
    restoring.load(algorithm, found.content["algorithm"])
    saved = found.content["generators"]
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in saved["cuda"]])


def _identity(options: Options) -> dict[str, Any]:
    args = json.loads(json.dumps(options.identity()))
    return {"args": args, "code_version": __version__, "format": FORMAT}


def _generators() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }
