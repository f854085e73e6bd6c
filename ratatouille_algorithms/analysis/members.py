"""The finished runs that are compared, by what they were fine-tuned for.

A `Target` is a (dataset, test domains, trial) with its runs, or members. Its ID data are the out
splits of the training domains, its OOD data all samples of the test domains.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, zip_longest
from math import comb
from pathlib import Path
from typing import Any

from domainbed.engine import initial_weights
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import weights as weight_files
from domainbed.lib.seeds import seed_hash
from domainbed.registry import InputError
from domainbed.runs import BEST, RunFolder
from ratatouille_algorithms import means, predictions
from ratatouille_algorithms.predictions import Predictions
from ratatouille_algorithms.waves import Mixture, Waves

FINE_TUNING, INTER_TRAINING, FUSING = "FineTuning", "InterTraining", "Fusing"
FOUNDATION = "foundation"
DATA = ("id", "ood")

_PLACES = {"probe": ("output_dir_lp", "lp"), "auxiliary": ("aux_dir", "aux")}
"""Role of a run that others start from -> the argument that says where it is, and the default."""

Row = dict[str, Any]
Pair = tuple["Member", "Member"]

logger = logging.getLogger(__name__)


class MissingRuns(InputError):
    """A sweep lacks the runs that an analysis needs."""


@dataclass(frozen=True)
class Limits:
    """What an analysis may cost: pairs of a target, subsets of a size, points of a plane's side."""

    pairs: int = 10
    subsets: int = 5
    grid: int = 9


@dataclass(frozen=True)
class Member:
    """A finished run, by its folder and what its run.json says."""

    folder: RunFolder
    description: Mapping[str, Any]

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments of the run."""
        return self.description["args"]

    @property
    def algorithm(self) -> str:
        """What trained it."""
        return self.args["algorithm"]

    @property
    def name(self) -> str:
        """Algorithm and hparams seed, which tell the members of a target apart."""
        return f"{self.algorithm} {self.args['hparams_seed']}"

    @property
    def weights(self) -> Path:
        """The weights that an average would take."""
        return self.folder / BEST

    @property
    def ingredients(self) -> list[Mapping[str, Any]]:
        """The files that it started from, as its records say: role, run, sha256."""
        return self.description.get("provenance", {}).get("initial", [])

    @property
    def init(self) -> str:
        """The auxiliary datasets (or runs, of an unknown past) that it is from, or `FOUNDATION`."""
        seen = self.description.get("provenance", {}).get("datasets_seen", [])
        if seen is None:
            names = [one["run"] for one in self.ingredients if one["role"] == "auxiliary"]
        else:
            names = [name for name in seen if name != self.args["dataset"]]
        return "+".join(names) or FOUNDATION


class Target:
    """The members of one (dataset, test domains, trial), and how mixtures of them are measured.

    `on_network` is called after each network that was evaluated. Raises `InputError` for members
    whose weights cannot be averaged.
    """

    def __init__(
        self,
        members: Sequence[Member],
        scratch: Path,
        data_dir: str | None,
        memory: float | None = None,
    ) -> None:
        self.members = sorted(members, key=lambda m: (m.algorithm, m.args["hparams_seed"]))
        self.scratch, self.data_dir, self.memory = scratch, data_dir, memory
        self.on_network: Callable[[], Any] = lambda: None
        self._accs: dict[Key, dict[str, float]] = {}
        self._initial: dict[tuple, Path] = {}
        for one, two in zip(self.members, self.members[1:]):
            if one.name == two.name:
                raise InputError(
                    f"{one.folder.path} and {two.folder.path} are both {one.name} on {self}; "
                    "keep one sweep in a folder"
                )
        means.check_members([member.weights for member in self.members])

    def __str__(self) -> str:
        columns = self.columns
        return f"{columns['dataset']} {columns['test_domain']}, trial {columns['trial_seed']}"

    @property
    def columns(self) -> Row:
        """What tells this target apart, in every row of a table."""
        some = self.members[0]
        names = some.description["environments"]
        return {
            "dataset": some.args["dataset"],
            "test_domain": "+".join(names[env] for env in some.args["test_envs"]),
            "trial_seed": some.args["trial_seed"],
        }

    def of(self, *algorithms: str) -> list[Member]:
        """The members that these algorithms trained."""
        return [member for member in self.members if member.algorithm in algorithms]

    def _run(self, member: Member, needs: Mapping[str, list[RunFolder]]) -> Run:
        """A member's run; its foundation need not be at hand, since weights replace it."""
        options = replace(Options.of_args(member.args), foundation="random", memory=self.memory)
        if self.data_dir is not None:
            options = replace(options, data_dir=self.data_dir)
        return Run(options, needs)

    @cached_property
    def run(self) -> Run:
        """The run whose data and network stand for all members'."""
        return self._run(self.members[0], {})

    @cached_property
    def waves(self) -> Waves:
        """The networks that mixtures are written into."""
        return Waves(self.run)

    @cached_property
    def samples(self) -> dict[str, predictions.Samples]:
        """Name of the data -> domain -> keys."""
        run = self.run
        id_ = {env: run.splits[env].out for env in run.train_envs}
        if not any(map(len, id_.values())):
            raise InputError(f"{self} holds out no samples for validation; there is no ID data")
        return {"id": id_, "ood": {env: range(len(run.dataset[env])) for env in run.test_envs}}

    def n_samples(self, data: str) -> int:
        """How many samples accuracies are measured on."""
        return sum(map(len, self.samples[data].values()))

    @cached_property
    def _fingerprint(self) -> str:
        return "".join(predictions.fingerprint(self.run, some) for some in self.samples.values())

    def predictions(self, members: Sequence[Member]) -> list[dict[str, Predictions]]:
        """What members say of the ID and OOD data, computed once and kept in their folders."""
        keys = [self._identity(member) for member in members]
        places = [member.folder / predictions.CACHE for member in members]
        found = [predictions.load(path, key) for path, key in zip(places, keys)]
        new = [i for i, one in enumerate(found) if one is None]
        predicted = self._predict([([members[i].weights], [1.0]) for i in new])
        for i, one in zip(new, predicted):
            predictions.save(places[i], keys[i], one)
            found[i] = one
        every = [one for one in found if one is not None]
        for member, one in zip(members, every):
            self._accs[_alone(member.weights)] = {k: p.accuracy for k, p in one.items()}
        return every

    def _identity(self, member: Member) -> str:
        """What a member's predictions depend on."""
        content = weight_files.content_hash(weight_files.read(member.weights)[0])
        return f"1 {content} {self._fingerprint}"

    def _predict(self, mixtures: Sequence[Mixture]) -> Iterator[dict[str, Predictions]]:
        for networks in self.waves.of(mixtures) if mixtures else ():
            found = {
                name: predictions.predict_each(networks, self.run, some)
                for name, some in self.samples.items()
            }
            for i in range(len(networks)):
                self.on_network()
                yield {name: of_each[i] for name, of_each in found.items()}

    def acc(self, member: Member) -> dict[str, float]:
        """A member's accuracies on the ID and OOD data."""
        return self.measure([member.weights])

    def measure(
        self, files: Sequence[Path], coefficients: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Accuracies of the mean of weight files, each counted `coefficient` times.

        The sum of the coefficients must not be 0; a mixture is measured once.
        """
        return self.measure_all([(files, coefficients or [1.0] * len(files))])[0]

    def measure_all(self, mixtures: Sequence[Mixture]) -> list[dict[str, float]]:
        """The same of several mixtures, as many in one pass over the data as memory allows."""
        shares = [_shares(*mixture) for mixture in mixtures]
        keys = [_key(some) for some in shares]
        new = {k: some for k, some in zip(keys, shares) if k not in self._accs}
        alone = {_alone(member.weights): member for member in self.members}
        self.predictions([alone[key] for key in new if key in alone])
        mixed = {key: some for key, some in new.items() if key not in alone}
        parts = [(list(map(Path, some)), list(some.values())) for some in mixed.values()]
        for key, found in zip(mixed, self._predict(parts)):
            self._accs[key] = {name: p.accuracy for name, p in found.items()}
        return [self._accs[key] for key in keys]

    def probed(self) -> Path:
        """The weights of the shared linear probe: the foundation under the probed head."""
        for member in self.members:
            for entry in member.ingredients:
                if entry["role"] == "probe":
                    return self._ingredient(member, entry) / BEST
        raise MissingRuns(f"no run of {self} records the linear probe that it started from")

    def initial(self, member: Member) -> Path:
        """A file of the weights that a member started from, made anew from its ingredients.

        Raises `MissingRuns` when one of them is not there or is not what it was.
        """
        key = tuple(entry["sha256"] for entry in member.ingredients)
        if key not in self._initial:
            needs: dict[str, list[RunFolder]] = {}
            for entry in member.ingredients:
                needs.setdefault(entry["role"], []).append(self._ingredient(member, entry))
            run = self._run(member, needs)
            network = run.build()
            started = initial_weights.start(run, network)["initial"]
            if tuple(entry["sha256"] for entry in started) != key:
                raise MissingRuns(
                    f"{member.folder.path} started from other weights than its linear probe and "
                    "auxiliary run hold now"
                )
            path = self.scratch / f"{seed_hash(str(self), *key)}.safetensors"
            weight_files.save(path, weight_files.tensors(network), {})
            self._initial[key] = path
        return self._initial[key]

    def release(self) -> None:
        """Give back the memory and the scratch files; what was measured is kept."""
        for path in self._initial.values():
            path.unlink()
        self._initial.clear()
        for name in ("run", "waves"):
            vars(self).pop(name, None)

    @staticmethod
    def _ingredient(member: Member, entry: Mapping[str, Any]) -> RunFolder:
        """The folder of a run that a member started from, though the sweep may have been moved."""
        if entry["role"] not in _PLACES:
            raise MissingRuns(f"{member.folder.path} started from a file given with --path_init")
        argument, default = _PLACES[entry["role"]]
        beside = member.folder.path.parent / default
        roots = [Path(member.args[argument])] if member.args.get(argument) else []
        for root in [*roots, beside]:
            if (root / entry["run"] / "done").exists():
                return RunFolder(root / entry["run"])
        raise MissingRuns(
            f"the {entry['role']} run {entry['run']} is not in {' or '.join(map(str, roots))}"
            f"{' nor ' if roots else ''}{beside}"
        )


Key = tuple[tuple[str, float], ...]
"""Files and the shares that they have in a mixture, which tell it apart from others."""


def _shares(files: Sequence[Path], coefficients: Sequence[float]) -> dict[str, float]:
    total = sum(coefficients)
    return {str(f): c / total for f, c in sorted(zip(files, coefficients)) if c}


def _key(shares: Mapping[str, float]) -> Key:
    return tuple((file, round(share, 9)) for file, share in shares.items())


def _alone(file: Path) -> Key:
    """The key of a file's own accuracies."""
    return ((str(file), 1.0),)


def find(
    input_dir: str | Path,
    scratch: Path,
    data_dir: str | None = None,
    datasets: Sequence[str] | None = None,
    test_envs: Sequence[int] | None = None,
    trial_seeds: Sequence[int] | None = None,
    memory: float | None = None,
) -> list[Target]:
    """The targets of the finished runs in a folder, those of interest where some are named.

    Raises `InputError` when there is none.
    """
    folder = Path(input_dir)
    if not folder.is_dir():
        raise InputError(f"--input_dir was given {str(folder)!r}, which is not a folder of runs")
    groups: dict[tuple, list[Member]] = {}
    there = list(_members(folder))
    for args, member in ((member.args, member) for member in there):
        is_wanted = (
            (datasets is None or args["dataset"] in datasets)
            and (test_envs is None or set(args["test_envs"]) <= set(test_envs))
            and (trial_seeds is None or args["trial_seed"] in trial_seeds)
        )
        if is_wanted:
            key = (args["dataset"], tuple(args["test_envs"]), args["trial_seed"])
            groups.setdefault(key, []).append(member)
    if not groups:
        raise InputError(
            f"--input_dir {str(folder)!r} holds {len(there)} finished {FINE_TUNING}, "
            f"{INTER_TRAINING} and {FUSING} runs with weights, none of them of the datasets, "
            "test_envs and trial_seeds that were asked for; make some with `sweep launch "
            "--algorithms DiWA_uniform Ratatouille_uniform`"
        )
    return [Target(groups[key], scratch, data_dir, memory) for key in sorted(groups)]


def _members(folder: Path) -> Iterator[Member]:
    """Fine-tunings towards a test domain that are done; one without weights is named, left out."""
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        run = RunFolder(path)
        description = run.description() if run.is_done else {}
        args = description.get("args", {})
        if args.get("algorithm") not in (FINE_TUNING, INTER_TRAINING, FUSING):
            continue
        if min(args["test_envs"]) < 0 or args.get("what_is_trainable") == "classifier":
            continue
        if (run / BEST).is_file():
            yield Member(run, description)
        else:
            logger.warning("%s has no %s and is left out", path, BEST)


def tabulate(targets: Iterable[Target], rows_of: Callable[[Target], list[Row]]) -> list[Row]:
    """The rows of all targets that have the runs for them.

    Raises `MissingRuns` with the first reason if none has.
    """
    rows: list[Row] = []
    reasons: list[str] = []
    for target in targets:
        try:
            rows += [{**target.columns, **row} for row in rows_of(target)]
        except MissingRuns as error:
            reasons.append(str(error))
        finally:
            target.release()
    if not rows:
        raise MissingRuns(reasons[0])
    for reason in reasons:
        logger.warning("left out: %s", reason)
    return rows


def in_turn(pairs: Iterable[Pair], limit: int) -> tuple[list[Pair], int]:
    """At most `limit` pairs, and of how many: one of each two initialisations, then a second ..."""
    groups: dict[tuple, list[Pair]] = {}
    for one, two in pairs:
        groups.setdefault(tuple(sorted((one.init, two.init))), []).append((one, two))
    ordered = [pair for turn in zip_longest(*groups.values()) for pair in turn if pair is not None]
    return ordered[:limit], len(ordered)


def subsets(n: int, size: int, limit: int) -> list[tuple[int, ...]]:
    """All subsets of 0 .. n - 1 of a size, or `limit` of them by chance, always the same."""
    if comb(n, size) <= limit:
        return list(combinations(range(n), size))
    rng = random.Random(seed_hash("subsets", n, size))
    found: set[tuple[int, ...]] = set()
    while len(found) < limit:
        found.add(tuple(sorted(rng.sample(range(n), size))))
    return sorted(found)
