"""How differently two networks err, and what that has to do with averaging their weights.

Measures take `Counts` of who is right, or features; nothing but them is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch

from domainbed.registry import InputError
from ratatouille_algorithms.analysis import figures
from ratatouille_algorithms.analysis.members import (
    DATA,
    FINE_TUNING,
    INTER_TRAINING,
    Limits,
    Member,
    MissingRuns,
    Pair,
    Row,
    Target,
    in_turn,
    tabulate,
)


class Counts(NamedTuple):
    """How many samples both networks get right, only the first, only the second, neither."""

    n11: int
    n10: int
    n01: int
    n00: int


def counts(right_a: torch.Tensor, right_b: torch.Tensor) -> Counts:
    """Count from who is right, two (n,) bool tensors about the same n >= 1 samples."""
    if right_a.shape != right_b.shape or right_a.ndim != 1 or not len(right_a):
        raise InputError(
            f"Two networks were compared on {tuple(right_a.shape)} and {tuple(right_b.shape)} "
            "samples; expected as many for both, and at least one"
        )
    a, b = right_a.bool(), right_b.bool()
    pairs = ((a & b), (a & ~b), (~a & b), (~a & ~b))
    return Counts(*(int(pair.sum()) for pair in pairs))


def ratio_error(c: Counts) -> float:
    """Errors of one network alone over simultaneous ones: N_diff / N_simul (Aksela 2003).

    Where there is no simultaneous error it is 2 N_diff / n, as the authors of Model Ratatouille
    have it (arXiv 2212.10445). >= 0; more is more diverse.
    """
    n_diff = c.n10 + c.n01
    return n_diff / c.n00 if c.n00 else 2 * n_diff / sum(c)


def q_statistic(c: Counts) -> float:
    """Yule's Q in [-1, 1]: 1 if the networks err on the same samples, 0 if independently.

    NaN where its denominator is zero (Kuncheva & Whitaker 2003).
    """
    with_, against = c.n11 * c.n00, c.n01 * c.n10
    return (with_ - against) / (with_ + against) if with_ + against else math.nan


def disagreement(c: Counts) -> float:
    """The share of samples that exactly one gets right (Skalak 1996), in [0, 1]."""
    return (c.n10 + c.n01) / sum(c)


def double_fault(c: Counts) -> float:
    """The share of samples that both get wrong (Giacinto & Roli 2001); less is more diverse."""
    return c.n00 / sum(c)


def unit_gram(features: torch.Tensor) -> torch.Tensor:
    """The Gram matrix (n, n) of centred features (n, d), scaled to unit Frobenius norm, float64.

    NaN for features that do not vary.
    """
    x = features.double()
    x = x - x.mean(0)
    gram = x @ x.T
    return gram / gram.norm()


def linear_cka(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Linear centred kernel alignment in [0, 1] of features (n, d) and (n, e) of n samples.

    Orthogonal maps and isotropic scaling of either do not change it, other linear maps do; NaN for
    features that do not vary (Kornblith et al. 2019, arXiv 1905.00414).
    """
    if len(features_a) != len(features_b):
        raise InputError(
            f"Features of {len(features_a)} and {len(features_b)} samples were compared; "
            "expected those of the same samples"
        )
    return (unit_gram(features_a) * unit_gram(features_b)).sum().item()


def measures(c: Counts, cka: float) -> dict[str, float]:
    """All measures by the name of their column."""
    q = q_statistic(c)
    return {
        "ratio_error": ratio_error(c),
        "q": q,
        "one_minus_q": 1 - q,
        "disagreement": disagreement(c),
        "double_fault": double_fault(c),
        "one_minus_cka": 1 - cka,
    }


def table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of each pair of members, and of all members of an algorithm together.

    `gain`, the accuracy of the average less the mean of the members', is measured for a limited
    number of pairs from the same initialisation, of others, and for all together.
    """
    return tabulate(targets, lambda target: _rows(target, limits))


def _rows(target: Target, limits: Limits) -> list[Row]:
    members = target.of(FINE_TUNING, INTER_TRAINING)
    if len(members) < 2:
        raise MissingRuns(f"diversity needs two runs or more of {target}; there is {len(members)}")
    said = dict(zip([member.name for member in members], target.predictions(members)))
    pairs = list(combinations(members, 2))
    measured: list[Pair] = []
    for is_same in (True, False):
        some = [pair for pair in pairs if (pair[0].init == pair[1].init) == is_same]
        measured += in_turn(some, limits.pairs)[0]
    target.measure_all([([one.weights, two.weights], [1.0, 1.0]) for one, two in measured])
    gains = {(one.name, two.name): _gain(target, [one, two]) for one, two in measured}
    rows: list[Row] = []
    for data in DATA:
        right = {name: p[data].right for name, p in said.items()}
        grams = {name: unit_gram(p[data].features) for name, p in said.items()}
        here = []
        for one, two in pairs:
            a, b = one.name, two.name
            c = counts(right[a], right[b])
            gain = gains.get((a, b), {}).get(data, math.nan)
            origin = "same" if one.init == two.init else "different"
            who = {"kind": "pair", "a": a, "b": b, "init_a": one.init, "init_b": two.init}
            found = measures(c, (grams[a] * grams[b]).sum().item())
            few = {"n_members": 2, "n_diff": c.n10 + c.n01, "n_simul": c.n00, "gain": gain}
            here.append({"data": data, **who, "init": origin, **few, **found})
        rows += [*here, *_sets(target, data, here)]
    return rows


def _gain(target: Target, members: Sequence[Member]) -> dict[str, float]:
    """Accuracy of the average less the mean accuracy of its members, by data."""
    average = target.measure([member.weights for member in members])
    accs = [target.acc(member) for member in members]
    return {data: average[data] - sum(acc[data] for acc in accs) / len(accs) for data in DATA}


def _sets(target: Target, data: str, pairs: list[Row]) -> list[Row]:
    """All members of each algorithm together: the means of their pairs' measures."""
    rows = []
    for algorithm in (FINE_TUNING, INTER_TRAINING):
        members = target.of(algorithm)
        names = {member.name for member in members}
        among = [row for row in pairs if {row["a"], row["b"]} <= names]
        if among:
            means = {key: figures.nanmean(row[key] for row in among) for key in MEASURES}
            rows.append(
                {
                    "data": data,
                    "kind": "set",
                    "a": algorithm,
                    "n_members": len(members),
                    "gain": _gain(target, members)[data],
                    **means,
                }
            )
    return rows


MEASURES = tuple(measures(Counts(1, 1, 1, 1), 0.0))
_SHOWN = {"ratio_error": "ratio-error", "one_minus_q": "1 - Q", "one_minus_cka": "1 - CKA"}
_COLOURS = {"same": figures.ORANGE, "different": figures.BLUE}


def draw(rows: list[Row]) -> Any:
    """For each dataset and data: the distribution of the ratio-error, and gain over diversity."""
    lines = [(d, data) for d in figures.unique(rows, "dataset") for data in DATA]
    figure, axes = figures.panels(len(lines), 4)
    for (dataset, data), line in zip(lines, axes):
        here = figures.where(rows, dataset=dataset, data=data)
        _histogram(line[0], figures.where(here, kind="pair"))
        line[0].set_ylabel(f"{dataset}, {data.upper()}\nshare of pairs (%)")
        for axis, (key, label) in zip(line[1:], _SHOWN.items()):
            _scatter(axis, here, key)
            axis.set_xlabel(label)
        line[1].set_ylabel("gain of averaging (points)")
    figures.legend(figure)
    return figure


def _histogram(axis: Any, rows: list[Row]) -> None:
    values = {init: [r["ratio_error"] for r in rows if r["init"] == init] for init in _COLOURS}
    top = max(max(some, default=0.0) for some in values.values()) or 1.0
    bins = [top * i / 10 for i in range(11)]
    for init, some in values.items():
        if some:
            share = [100 / len(some)] * len(some)
            label = f"pair from {'the same init' if init == 'same' else 'different inits'}"
            style = {"color": _COLOURS[init], "label": label}
            if init == "same":
                axis.hist(some, bins, weights=share, alpha=0.5, **style)
            else:
                axis.hist(some, bins, weights=share, histtype="step", lw=1.2, **style)
            axis.axvline(sum(some) / len(some), color=_COLOURS[init], lw=1.2, ls="--")
    axis.set_xlabel("ratio-error")


def _scatter(axis: Any, rows: list[Row], key: str) -> None:
    points = [r for r in rows if not (math.isnan(r["gain"]) or math.isnan(r[key]))]
    pairs = figures.where(points, kind="pair")
    for init, colour in _COLOURS.items():
        some = [row for row in pairs if row["init"] == init]
        xs, ys = [row[key] for row in some], [100 * row["gain"] for row in some]
        axis.scatter(xs, ys, s=9, color=colour, alpha=0.7, lw=0)
    for algorithm, marker in ((FINE_TUNING, "s"), (INTER_TRAINING, "*")):
        some = [row for row in points if row["kind"] == "set" and row["a"] == algorithm]
        xs, ys = [row[key] for row in some], [100 * row["gain"] for row in some]
        style = {"s": 20, "marker": marker, "color": figures.BLACK, "lw": 0}
        axis.scatter(xs, ys, label=f"all {algorithm} runs", **style)
    axis.axhline(0, color=figures.GREY, lw=0.6)
    figures.trend(axis, [row[key] for row in pairs], [100 * row["gain"] for row in pairs])


def summary(rows: list[Row]) -> str:
    """How much was measured, and what the mean ratio-errors are."""
    pairs = [row for row in rows if row["kind"] == "pair" and row["data"] == "ood"]
    parts = [f"{len(pairs)} pairs"]
    for init in _COLOURS:
        some = [row["ratio_error"] for row in pairs if row["init"] == init]
        if some:
            parts.append(f"{init} init: mean OOD ratio-error {sum(some) / len(some):.2f}")
    no_simul = sum(row["n_simul"] == 0 for row in pairs)
    n_gains = sum(not math.isnan(row["gain"]) for row in pairs)
    parts.append(f"gain of {n_gains} of {len(pairs)}")
    if no_simul:
        parts.append(f"{no_simul} without a simultaneous error, where it is 2 N_diff / n")
    return "; ".join(parts)
