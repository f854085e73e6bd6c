"""How the weights of a run start, and where they come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from domainbed import networks
from domainbed.engine import frozen
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import naming, stored, weights
from domainbed.networks import foundations
from domainbed.registry import InputError
from domainbed.runs import BEST, LAST, RunFolder

logger = logging.getLogger(__name__)


class InitialWeights:
    """Loads weights into a fresh algorithm and keeps account of their origin.

    The account, `provenance`, goes into run.json and into the headers of weights:
    foundation {name, sha256} is what the featurizer descends from, initial lists the files that
    were loaded {role, run, sha256}, datasets_seen all datasets that the featurizer was trained on
    (None where a file does not say), head the sha256 of the classifier at the start.
    """

    def __init__(self, run: Run, algorithm: Any) -> None:
        self.run, self.algorithm = run, algorithm
        featurizer = getattr(algorithm, "featurizer", algorithm)
        state = weights.tensors(featurizer)
        self.provenance: dict[str, Any] = {
            "foundation": {
                "name": getattr(featurizer, "foundation", ""),
                "sha256": weights.content_hash(state),
            },
            "initial": [],
            "datasets_seen": [],
        }

    def load_all(self, path: Path, role: str) -> dict[str, Any]:
        """Load every weight of the algorithm, strictly; return the file's own provenance."""
        contents = weights.Contents(path)
        fit, _ = naming.best(contents, weights.layout(self.algorithm))
        read = contents.load(fit.entry)
        state = {key.removeprefix(fit.prefix): tensor for key, tensor in read.items()}
        load = weights.load_matching if contents.header else foundations.load_foreign
        load(self.algorithm, state, str(path))
        return self._account(path, role, contents.header, read)

    def load_featurizer(self, path: Path, role: str) -> dict[str, Any]:
        """Load the featurizer by name, leaving the file's head; return the file's provenance."""
        state, header = foundations.load_file(self.algorithm.featurizer, path, str(path))
        return self._account(path, role, header, state)

    def _account(
        self, path: Path, role: str, header: Mapping[str, Any], state: weights.State
    ) -> dict[str, Any]:
        theirs = header.get("provenance", {})
        if theirs.get("foundation"):
            self.provenance["foundation"] = theirs["foundation"]
        self._add_seen(theirs.get("datasets_seen"))
        entry = {"role": role, "run": path.parent.name, "sha256": weights.content_hash(state)}
        self.provenance["initial"].append(entry)
        logger.info("%s: weights of %s", role, path)
        return theirs

    def finish(self) -> dict[str, Any]:
        """The provenance of what this run is going to train."""
        self._add_seen([self.run.options.dataset])
        if hasattr(self.algorithm, "classifier"):
            self.provenance["head"] = weights.content_hash(
                weights.tensors(self.algorithm.classifier)
            )
        return self.provenance

    def _add_seen(self, names: Sequence[str] | None) -> None:
        before = self.provenance["datasets_seen"]
        self.provenance["datasets_seen"] = stored.all_seen([before, names])


def start(run: Run, algorithm: Any) -> dict[str, Any]:
    """Load what a run starts from and freeze what it does not train; return the provenance.

    An algorithm that defines `start(initial: InitialWeights)` says itself what it starts from;
    --path_init comes before.
    """
    initial = InitialWeights(run, algorithm)
    if run.options.path_init:
        _from_path(initial, Path(run.options.path_init))
    if hasattr(algorithm, "start"):
        algorithm.start(initial)
    if run.options.what_is_trainable == "classifier":
        if not hasattr(algorithm, "featurizer"):
            raise InputError(
                f"--what_is_trainable classifier was given, but {run.options.algorithm} has no "
                "featurizer to freeze; use ERM or another algorithm that has one"
            )
        frozen.freeze(algorithm.featurizer)
    return initial.finish()


def check(options: Options, hparams: Mapping[str, Any]) -> None:
    """Raise `InputError` for a backbone that is unknown and files that hold no weights.

    No tensor is read, so this takes no time.
    """
    if hparams.get("backbone", "auto") != "auto":
        networks.builder(hparams["backbone"])
    if options.path_init:
        weights.Contents(_file(Path(options.path_init)))
    if options.foundation not in (None, "random"):
        weights.Contents(foundations.file_of(options.foundation))


def _file(path: Path) -> Path:
    """A file of weights itself, or the best or last ones of a run folder."""
    if any((path / name).is_file() for name in (BEST, LAST)):
        return path / (BEST if (path / BEST).is_file() else LAST)
    return path


def _from_path(initial: InitialWeights, path: Path) -> None:
    """Take all weights of a file if its head fits this run's classes, else its featurizer."""
    path = _file(path)
    if naming.is_whole(weights.Contents(path), weights.layout(initial.algorithm)):
        initial.load_all(path, "path_init")
    else:
        initial.load_featurizer(path, "path_init")
        logger.warning("the head of %s does not fit and starts anew", path)


def needed_weights(folder: RunFolder, name: str) -> Path:
    """A weight file of a finished run; raises `InputError` where it was not kept."""
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"{path} is missing: it was not saved, or a sweep's --keep let it go; delete "
            f"{folder.path} and launch again"
        )
    return path
