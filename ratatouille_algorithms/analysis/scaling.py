"""Accuracy of the average against what it is made of: members, initialisations, steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ratatouille_algorithms.analysis import figures
from ratatouille_algorithms.analysis.members import (
    DATA,
    FINE_TUNING,
    INTER_TRAINING,
    Limits,
    Member,
    MissingRuns,
    Row,
    Target,
    logger,
    subsets,
    tabulate,
)
from ratatouille_algorithms.waves import Mixture

N_SIZES = 8
"""How many numbers of members are measured at most."""

N_STEPS = 11
"""How many steps are measured at most."""

NAMES = {FINE_TUNING: "DiWA", INTER_TRAINING: "Ratatouille"}
_COLOURS = {FINE_TUNING: figures.ORANGE, INTER_TRAINING: figures.BLUE}
_WHAT = {
    "average": ("-", ""),
    "equally many": ("--", ", as many as from one init"),
    "mean of members": (":", ", mean of members"),
}
"""What a row's accuracy is of -> how its line looks, and what the legend adds."""

_KINDS = {
    "members": "members M",
    "inits": "initialisations",
    "steps": "steps of fine-tuning",
}


def sizes(n: int, limit: int = N_SIZES) -> list[int]:
    """At most `limit` whole numbers from 1 to n, both among them, closer together at first."""
    if n <= limit:
        return list(range(1, n + 1))
    return sorted({round(n ** (i / (limit - 1))) for i in range(limit)})


def spread(n: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0 .. n - 1, evenly spread, first and last among them."""
    if n <= limit:
        return list(range(n))
    return sorted({round(i * (n - 1) / (limit - 1)) for i in range(limit)})


def table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of each average that was measured."""
    return tabulate(targets, lambda target: _rows(target, limits))


def _rows(target: Target, limits: Limits) -> list[Row]:
    rows = []
    for algorithm in NAMES:
        members = target.of(algorithm)
        if len(members) > 1:
            rows += _by_members(target, members, limits)
            rows += _by_steps(target, members)
    rows += _by_inits(target, limits)
    if not rows:
        raise MissingRuns(
            f"scaling needs two runs or more of {FINE_TUNING} or of {INTER_TRAINING} on {target}; "
            f"there are {len(target.of(FINE_TUNING))} and {len(target.of(INTER_TRAINING))}"
        )
    return rows


def _averages(
    target: Target, wanted: Sequence[tuple[Sequence[Member], dict[str, Any]]]
) -> list[Row]:
    """Rows of averages of members, each with its columns, by data."""
    mixtures = [([m.weights for m in members], [1.0] * len(members)) for members, _ in wanted]
    rows = []
    for (members, columns), accs in zip(wanted, target.measure_all(mixtures)):
        rows += _accs(target, accs, **columns, n_members=len(members))
    return rows


def _accs(target: Target, accs: Mapping[str, float], **columns: Any) -> list[Row]:
    return [
        {**columns, "data": data, "acc": accs[data], "n_samples": target.n_samples(data)}
        for data in DATA
    ]


def _by_members(target: Target, members: list[Member], limits: Limits) -> list[Row]:
    algorithm, wanted = members[0].algorithm, []
    for size in sizes(len(members)):
        # of single members all are measured: they are at hand
        limit = len(members) if size == 1 else limits.subsets
        for some in subsets(len(members), size, limit):
            columns = {"kind": "members", "what": "average", "algorithm": algorithm, "x": size}
            columns["subset"] = " ".join(map(str, some))
            wanted.append(([members[i] for i in some], columns))
    return _averages(target, wanted)


def _by_inits(target: Target, limits: Limits) -> list[Row]:
    """All members of some initialisations; and as many as one has, spread over all of them."""
    by_init: dict[str, list[Member]] = {}
    for member in target.of(INTER_TRAINING):
        by_init.setdefault(member.init, []).append(member)
    if len(by_init) < 2:
        return []
    groups, wanted = list(by_init.values()), []
    fewest = min(map(len, groups))
    for size in range(1, len(groups) + 1):
        for some in subsets(len(groups), size, limits.subsets):
            chosen = [groups[i] for i in some]
            columns = {"kind": "inits", "algorithm": INTER_TRAINING, "x": size}
            columns["subset"] = " ".join(map(str, some))
            every = [member for group in chosen for member in group]
            wanted.append((every, {**columns, "what": "average"}))
            if 1 < fewest >= size:
                equal = [chosen[k % size][k // size] for k in range(fewest)]
                wanted.append((equal, {**columns, "what": "equally many"}))
    return _averages(target, wanted)


def kept_steps(member: Member) -> dict[int, Path]:
    """The weights along a run that were kept, by step."""
    paths = member.folder.path.glob("model_step*.safetensors")
    return {int(re.findall(r"\d+", path.name)[0]): path for path in paths}


def _by_steps(target: Target, members: list[Member]) -> list[Row]:
    """The average of all members at each step that all have kept, and the mean of the members."""
    kept = [kept_steps(member) for member in members]
    steps = sorted(set.intersection(*(set(some) for some in kept)))
    if not steps:
        logger.info("scaling along steps is left out of %s: no weights of steps were kept", target)
    rows: list[Row] = []
    for step in (steps[i] for i in spread(len(steps), N_STEPS)):
        files = [some[step] for some in kept]
        columns = {"kind": "steps", "algorithm": members[0].algorithm, "x": step, "subset": "all"}
        columns["n_members"] = len(members)
        one_each: list[Mixture] = [([file], [1.0]) for file in files]
        average, *alone = target.measure_all([(files, [1.0] * len(files)), *one_each])
        rows += _accs(target, average, **columns, what="average")
        mean = {data: sum(accs[data] for accs in alone) / len(alone) for data in DATA}
        rows += _accs(target, mean, **columns, what="mean of members")
    return rows


def draw(rows: list[Row]) -> Any:
    """A row for each dataset and data, a column for each quantity that the sweep has runs for."""
    lines = [(d, data) for d in figures.unique(rows, "dataset") for data in DATA]
    kinds = [kind for kind in _KINDS if figures.where(rows, kind=kind)]
    figure, axes = figures.panels(len(lines), len(kinds))
    for (dataset, data), line in zip(lines, axes):
        line[0].set_ylabel(f"{dataset}, {data.upper()}\naccuracy (%)")
        for kind, axis in zip(kinds, line):
            here = figures.where(rows, dataset=dataset, data=data, kind=kind)
            _panel(axis, here)
            axis.set_xlabel(_KINDS[kind])
            if kind != "steps":
                axis.xaxis.get_major_locator().set_params(integer=True)
    figures.legend(figure, 4)
    return figure


def _panel(axis: Any, rows: list[Row]) -> None:
    for algorithm, name in NAMES.items():
        for what, (style, suffix) in _WHAT.items():
            here = figures.where(rows, algorithm=algorithm, what=what)
            if here:
                curve = figures.spread_over(here, "x", lambda row: row["subset"])
                look = {"color": _COLOURS[algorithm], "ls": style, "label": name + suffix}
                figures.band(axis, curve, **look, marker="o", ms=2.2)


def summary(rows: list[Row]) -> str:
    """How many averages were measured, and what was not there."""
    n = len(figures.where(rows, data="ood"))
    lacking = [name for kind, name in _KINDS.items() if not figures.where(rows, kind=kind)]
    parts = [f"{n} averages"]
    if "steps of fine-tuning" in lacking:
        parts.append("no runs kept model_step*.safetensors (--save_model_every_checkpoint)")
    if "initialisations" in lacking:
        parts.append(f"no {INTER_TRAINING} runs from two initialisations")
    return "; ".join(parts)
