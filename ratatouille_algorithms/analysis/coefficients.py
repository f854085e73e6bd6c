"""Accuracy against coefficients: mu, the share of one initialisation among what is averaged, and
kappa, the share of a featurizer in what Fusing runs started from.

The mean (1 - mu) x (mean of the other members) + mu x (mean of the members from one initialisation)
is that of a set in which they have the share mu.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ratatouille_algorithms.analysis import figures
from ratatouille_algorithms.analysis.connectivity import POINTS
from ratatouille_algorithms.analysis.members import (
    DATA,
    FOUNDATION,
    FUSING,
    INTER_TRAINING,
    Limits,
    Member,
    MissingRuns,
    Row,
    Target,
    tabulate,
)


def table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of each share mu of each initialisation, and of each Fusing run's coefficients kappa."""
    return tabulate(targets, _rows)


def _rows(target: Target) -> list[Row]:
    rows = [row for member in target.of(FUSING) for row in _kappas(target, member)]
    members = target.of(INTER_TRAINING)
    inits = list(dict.fromkeys(member.init for member in members))
    if len(inits) < 2 and not rows:
        raise MissingRuns(
            f"coefficients need {INTER_TRAINING} runs of {target} from two initialisations, or "
            f"{FUSING} runs; there are {len(members)} from {len(inits)}, and none"
        )
    for init in inits if len(inits) > 1 else ():
        mine = [member.init == init for member in members]
        files = [member.weights for member in members]
        n = {True: sum(mine), False: len(mine) - sum(mine)}
        mixtures = [
            (files, [(mu if is_mine else 1 - mu) / n[is_mine] for is_mine in mine]) for mu in POINTS
        ]
        for mu, accs in zip(POINTS, target.measure_all(mixtures)):
            rows += _accs(target, accs, kind="mu", init=init, coefficient=mu)
    return rows


def _kappas(target: Target, member: Member) -> list[Row]:
    """The coefficients that a run recorded; what is left of 1 is the foundation's."""
    auxiliary = [entry for entry in member.ingredients if entry["role"] == "auxiliary"]
    kappas = {
        name: entry["coefficient"]
        for name, entry in zip(member.args.get("aux_datasets", []), auxiliary)
    }
    kappas = {FOUNDATION: 1 - sum(kappas.values()), **kappas}
    accs, rows = target.acc(member), []
    for init, kappa in kappas.items():
        columns = {"kind": "kappa", "run": member.name, "init": init, "coefficient": kappa}
        rows += _accs(target, accs, **columns)
    return rows


def _accs(target: Target, accs: Mapping[str, float], **columns: Any) -> list[Row]:
    return [
        {**columns, "data": data, "acc": accs[data], "n_samples": target.n_samples(data)}
        for data in DATA
    ]


def draw(rows: list[Row]) -> Any:
    """A row for each dataset: accuracy over mu, OOD over ID accuracy, and Fusing's kappa."""
    datasets, kinds = figures.unique(rows, "dataset"), figures.unique(rows, "kind")
    inits = sorted(figures.unique(rows, "init"), key=lambda init: (init != FOUNDATION, init))
    colours = dict(zip(inits, itertools.cycle(figures.CYCLE)))
    n_columns = 3 * ("mu" in kinds) + ("kappa" in kinds)
    figure, axes = figures.panels(len(datasets), n_columns, height=1.8)
    for dataset, line in zip(datasets, axes):
        here = figures.where(rows, dataset=dataset)
        if "mu" in kinds:
            _over_mu(line[:2], figures.where(here, kind="mu"), colours)
            _scatter(line[2], figures.where(here, kind="mu"), colours)
        if "kappa" in kinds:
            _fusing(figure, line[-1], figures.where(here, kind="kappa"))
        line[0].set_ylabel(f"{dataset}\n{line[0].get_ylabel()}")
    figures.legend(figure, 6)
    return figure


def _over_mu(axes: Sequence[Any], rows: list[Row], colours: Mapping[str, str]) -> None:
    for axis, data in zip(axes, DATA):
        for init, colour in colours.items():
            here = figures.where(rows, init=init, data=data)
            if here:
                curve = figures.mean_over_domains(here, "coefficient")
                figures.band(axis, curve, color=colour, label=init)
        axis.set_xlabel("share $\\mu$")
        axis.set_ylabel(f"{data.upper()} accuracy (%)")


def _scatter(axis: Any, rows: list[Row], colours: Mapping[str, str]) -> None:
    """A curve for each initialisation, its dots growing with mu; the best of each kind marked."""
    points = []
    for init, colour in colours.items():
        by_data = [figures.where(rows, init=init, data=data) for data in DATA]
        (mus, xs, _), (_, ys, _) = (figures.mean_over_domains(r, "coefficient") for r in by_data)
        axis.plot(xs, ys, color=colour, lw=0.6, alpha=0.6)
        axis.scatter(xs, ys, s=[3 + 14 * mu for mu in mus], color=colour, lw=0, alpha=0.8)
        points += list(zip(xs, ys))
    if points:
        style = {"color": figures.BLACK, "ls": "", "ms": 8, "mfc": "none", "clip_on": False}
        axis.plot(*max(points), marker="s", label="best by ID", **style)
        best = max(points, key=lambda point: point[1])
        axis.plot(*best, marker="D", label="best by OOD", **style)
    axis.set_xlabel("ID accuracy (%)")
    axis.set_ylabel("OOD accuracy (%)")


def _fusing(figure: Any, axis: Any, rows: list[Row]) -> None:
    own = figures.where(rows, init=FOUNDATION)
    xs, ys = ([100 * row["acc"] for row in figures.where(own, data=data)] for data in DATA)
    kappas = [row["coefficient"] for row in figures.where(own, data="id")]
    if kappas:
        dots = axis.scatter(xs, ys, c=kappas, s=14, cmap="cividis", vmin=0, vmax=1, lw=0)
        figure.colorbar(dots, ax=axis, label="$\\kappa$ of the foundation")
    axis.set_xlabel("ID accuracy (%)")
    axis.set_ylabel("OOD accuracy (%)")
    axis.set_title("Fusing runs")


def summary(rows: list[Row]) -> str:
    """How many mixtures and runs were measured."""
    rows = [row for row in rows if row["data"] == "ood"]
    mixtures = figures.where(rows, kind="mu")
    runs = {(r["dataset"], r["test_domain"], r["trial_seed"], r.get("run")) for r in rows} - {
        (r["dataset"], r["test_domain"], r["trial_seed"], None) for r in mixtures
    }
    return f"{len(mixtures)} mixtures by mu; kappa of {len(runs)} {FUSING} runs"
