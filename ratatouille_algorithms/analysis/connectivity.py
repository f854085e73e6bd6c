"""Linear mode connectivity: does accuracy hold on the segment between two networks' weights?

Two networks a and b are connected if acc((1 - l) a + l b) >= (1 - l) acc(a) + l acc(b), the chord,
for all l in [0, 1] (Frankle et al. 2020, arXiv 1912.05671, with accuracies as Rame et al. 2023,
arXiv 2212.10445, hypotheses 1 and 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from domainbed.registry import InputError
from ratatouille_algorithms.analysis import figures
from ratatouille_algorithms.analysis.members import (
    DATA,
    INTER_TRAINING,
    Limits,
    MissingRuns,
    Pair,
    Row,
    Target,
    in_turn,
    logger,
    tabulate,
)
from ratatouille_algorithms.waves import Mixture

POINTS = tuple(i / 10 for i in range(11))
"""Where a segment is measured."""

WHEN = {"after": "after fine-tuning", "before": "before fine-tuning"}


def chord(first: float, last: float, points: Sequence[float] = POINTS) -> list[float]:
    """The straight line between the accuracies of the two ends, at each point."""
    return [(1 - lam) * first + lam * last for lam in points]


def worst_gap(accs: Sequence[float], points: Sequence[float] = POINTS) -> tuple[float, int]:
    """The least accuracy above the chord, and its index; below 0 where accuracy falls short.

    accs: one for each point, those of the ends first and last. It is never above 0, which the
    ends have.
    """
    if len(accs) != len(points) or len(accs) < 2:
        raise InputError(
            f"{len(accs)} accuracies were given for {len(points)} points of a segment; expected "
            "one for each, and the two ends at least"
        )
    gaps = [acc - line for acc, line in zip(accs, chord(accs[0], accs[-1], points))]
    worst = min(range(len(gaps)), key=gaps.__getitem__)
    return min(gaps[worst], 0.0), worst


def is_broken(accs: Sequence[float], n_samples: int, points: Sequence[float] = POINTS) -> bool:
    """Whether accuracy falls below the chord by more than two standard errors somewhere.

    The error is that of an accuracy p on n samples, sqrt(p (1 - p) / n), at the worst point.
    """
    gap, at = worst_gap(accs, points)
    p = min(max(accs[at], 0.5 / n_samples), 1 - 0.5 / n_samples)  # 0 and 1 have errors, too
    return gap < -2 * math.sqrt(p * (1 - p) / n_samples)


def curve(
    measure_all: Callable[[Sequence[Mixture]], Sequence[Mapping[str, float]]],
    ends: tuple[Path, Path],
    points: Sequence[float] = POINTS,
) -> dict[str, list[float]]:
    """Accuracies at each point of the segment between two weight files, by the data's name.

    measure_all: the accuracies of means of files with coefficients, such as `Target.measure_all`.
    """
    found = measure_all([(ends, [1 - lam, lam]) for lam in points])
    return {data: [accs[data] for accs in found] for data in found[0]}


def table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of each point between two inter-trainings, after fine-tuning and before it."""
    return tabulate(targets, lambda target: _rows(target, limits))


def _rows(target: Target, limits: Limits) -> list[Row]:
    members = target.of(INTER_TRAINING)
    firsts = list({member.init: member for member in reversed(members)}.values())[::-1]
    if len(firsts) < 2:
        raise MissingRuns(
            f"connectivity needs two {INTER_TRAINING} runs of {target} from different "
            f"initialisations; there is {len(firsts)}"
        )
    unlike = [pair for pair in combinations(members, 2) if pair[0].init != pair[1].init]
    rows = []
    for when, candidates in (("after", unlike), ("before", list(combinations(firsts, 2)))):
        pairs, of_pairs = in_turn(candidates, limits.pairs)
        try:
            for pair in pairs:
                rows += _segment(target, when, pair, of_pairs)
        except MissingRuns as error:
            logger.warning("connectivity of %s %s is left out: %s", target, WHEN[when], error)
    return rows


def _segment(target: Target, when: str, pair: Pair, of_pairs: int) -> list[Row]:
    one, two = pair
    file = (lambda member: member.weights) if when == "after" else target.initial
    accs = curve(target.measure_all, (file(one), file(two)))
    rows = []
    for data in DATA:
        n, line = target.n_samples(data), chord(accs[data][0], accs[data][-1])
        common = {
            "when": when,
            "a": one.name,
            "b": two.name,
            "init_a": one.init,
            "init_b": two.init,
            "of_pairs": of_pairs,
            "data": data,
            "n_samples": n,
            "worst_gap": worst_gap(accs[data])[0],
            "is_broken": int(is_broken(accs[data], n)),
        }
        for lam, acc, on_chord in zip(POINTS, accs[data], line):
            rows.append({**common, "coefficient": lam, "acc": acc, "chord": on_chord})
    return rows


_PAIR = ("dataset", "test_domain", "trial_seed", "when", "data", "a", "b")


def _curves(rows: list[Row]) -> list[list[Row]]:
    """The rows of each segment."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in _PAIR), []).append(row)
    return list(groups.values())


def draw(rows: list[Row]) -> Any:
    """A panel for each dataset, time and data; the worst segment stands out with its gap."""
    datasets, times = figures.unique(rows, "dataset"), figures.unique(rows, "when")
    columns = [(when, data) for when in times for data in DATA]
    figure, axes = figures.panels(len(datasets), len(columns))
    for dataset, line in zip(datasets, axes):
        for (when, data), axis in zip(columns, line):
            curves = _curves(figures.where(rows, dataset=dataset, when=when, data=data))
            if curves:
                _panel(axis, curves)
            axis.set_xlabel("coefficient $\\lambda$")
        line[0].set_ylabel(f"{dataset}\naccuracy (%)")
    for (when, data), axis in zip(columns, axes[0]):
        axis.set_title(f"{WHEN[when]}, {data.upper()}\n{axis.get_title()}")
    figures.legend(figure, 3)
    return figure


def _panel(axis: Any, curves: list[list[Row]]) -> None:
    """All segments thin, the broken ones in another colour; the mean and the worst one thick."""
    thin = {"lw": 0.5, "alpha": 0.45}
    for some in curves:
        is_bad = some[0]["is_broken"]
        label = "a broken segment" if is_bad else "a segment within two standard errors"
        colour = figures.VERMILION if is_bad else figures.SKY
        accs = [100 * row["acc"] for row in some]
        axis.plot(POINTS, accs, color=colour, label=label, **thin)
    every = [row for some in curves for row in some]
    figures.band(
        axis, figures.mean_over_domains(every, "coefficient"), color=figures.BLUE, label="mean"
    )
    chords = [
        100 * figures.nanmean(r["chord"] for r in every if r["coefficient"] == lam)
        for lam in POINTS
    ]
    axis.plot(POINTS, chords, color=figures.BLACK, ls="--", lw=0.9, label="chord")
    worst = min(curves, key=lambda some: some[0]["worst_gap"])
    style = {"color": figures.VERMILION, "lw": 1.2}
    axis.plot(POINTS, [100 * r["acc"] for r in worst], **style, label="worst segment")
    axis.plot(POINTS, [100 * r["chord"] for r in worst], **{**style, "lw": 0.8}, ls="--")
    n_broken = sum(some[0]["is_broken"] for some in curves)
    gap = 100 * worst[0]["worst_gap"]
    axis.set_title(f"{n_broken} of {len(curves)} broken, worst {gap:.1f}", pad=3)


def summary(rows: list[Row]) -> str:
    """How many segments were measured of how many, how many are broken, and the worst one."""
    parts = []
    for when in figures.unique(rows, "when"):
        for data in DATA:
            curves = _curves(figures.where(rows, when=when, data=data))
            worst = min(curves, key=lambda some: some[0]["worst_gap"])[0]
            there = {tuple(s[0][k] for k in _PAIR[:3]): s[0]["of_pairs"] for s in curves}
            n_broken = sum(some[0]["is_broken"] for some in curves)
            parts.append(
                f"{WHEN[when]}, {data.upper()}: {len(curves)} of {sum(there.values())} pairs, "
                f"{n_broken} broken, worst {100 * worst['worst_gap']:.1f} points "
                f"({worst['dataset']} {worst['test_domain']}, {worst['init_a']} to "
                f"{worst['init_b']})"
            )
    return "; ".join(parts)
