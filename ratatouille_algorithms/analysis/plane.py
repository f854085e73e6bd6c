"""Accuracy over the plane through three networks' weights (Garipov et al. 2018, arXiv 1802.10026),
and on the segment from the foundation to an average (Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch

from domainbed.lib import weights as weight_files
from domainbed.registry import InputError
from ratatouille_algorithms.analysis import figures
from ratatouille_algorithms.analysis.connectivity import POINTS
from ratatouille_algorithms.analysis.members import (
    DATA,
    FINE_TUNING,
    INTER_TRAINING,
    Limits,
    Member,
    MissingRuns,
    Row,
    Target,
    tabulate,
)
from ratatouille_algorithms.analysis.scaling import NAMES

MARGIN = 0.25
"""What is shown around the three, as a share of their extent."""


def squared_distances(files: Sequence[Path]) -> torch.Tensor:
    """Between the weights of files, (n, n) float64; one tensor of each in memory at a time."""
    with weight_files.opened(files[0]) as file:
        names = list(file.keys())
    total = torch.zeros(len(files), len(files), dtype=torch.float64)
    for name in names:
        parts = []
        for path in files:
            with weight_files.opened(path) as file:
                parts.append(file.get_tensor(name).double().flatten())
        for i, j in combinations(range(len(files)), 2):
            total[i, j] += (parts[i] - parts[j]).square().sum()
    return total + total.T


def corners(squared: torch.Tensor) -> list[tuple[float, float]]:
    """Where three networks lie in their plane, in units of weight space, from distances (3, 3).

    The first is the origin, the second on the axis of x, the third above it. Raises `InputError`
    for three that are on a line.
    """
    ab, ac, bc = (math.sqrt(squared[i, j].item()) for i, j in ((0, 1), (0, 2), (1, 2)))
    if ab == 0:
        raise InputError("Two of three networks are the same; they span no plane")
    x = (ab**2 + ac**2 - bc**2) / (2 * ab)
    y = math.sqrt(max(ac**2 - x**2, 0.0))
    if y < 1e-6 * ab:
        raise InputError("Three networks are on a line in weight space; they span no plane")
    return [(0.0, 0.0), (ab, 0.0), (x, y)]


def shares(x: float, y: float, points: Sequence[tuple[float, float]]) -> list[float]:
    """The coefficients of the three, of sum 1, whose mixture lies at (x, y)."""
    (_, _), (b, _), (cx, cy) = points
    third = y / cy
    second = (x - third * cx) / b
    return [1 - second - third, second, third]


def table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of a grid over the plane of three members, of one target of each dataset."""
    firsts = {target.columns["dataset"]: target for target in reversed(targets)}
    return tabulate(list(firsts.values())[::-1], lambda target: _plane(target, limits.grid))


def _three(target: Target) -> list[Member]:
    """Three inter-trainings from different initialisations where there are, else three runs."""
    members = [*target.of(INTER_TRAINING), *target.of(FINE_TUNING)]
    unlike = list({member.init: member for member in reversed(members)}.values())[::-1]
    three = [*unlike, *(member for member in members if member not in unlike)][:3]
    if len(three) < 3:
        raise MissingRuns(f"plane needs three runs of {target}; there is {len(three)}")
    return three


def _plane(target: Target, grid: int) -> list[Row]:
    three = _three(target)
    files = [member.weights for member in three]
    try:
        points = corners(squared_distances(files))
    except InputError as error:
        raise MissingRuns(f"plane of {target}: {error}") from error
    (x_low, x_high), (y_low, y_high) = (_range(values) for values in zip(*points))
    centre = [sum(values) / 3 for values in zip(*points)]
    places = [
        (f"{member.init} ({member.name})", *point, [float(k == i) for k in range(3)])
        for i, (member, point) in enumerate(zip(three, points))
    ]
    places.append(("average", *centre, [1 / 3] * 3))
    for i, j in product(range(grid), repeat=2):
        x = x_low + (x_high - x_low) * i / (grid - 1)
        y = y_low + (y_high - y_low) * j / (grid - 1)
        places.append(("grid", x, y, shares(x, y, points)))
    rows = []
    every = target.measure_all([(files, coefficients) for *_, coefficients in places])
    for (what, x, y, coefficients), accs in zip(places, every):
        for data in DATA:
            few = {"what": what, "x": x, "y": y, "data": data, "acc": accs[data]}
            rows.append({**few, **dict(zip(("share_a", "share_b", "share_c"), coefficients))})
    return rows


def _range(values: Sequence[float]) -> tuple[float, float]:
    room = MARGIN * (max(values) - min(values))
    return min(values) - room, max(values) + room


def draw(rows: list[Row]) -> Any:
    """A map for each dataset and data, with the three networks and their average."""
    datasets = figures.unique(rows, "dataset")
    x, y = ([row[key] for row in rows] for key in ("x", "y"))
    ratio = (max(y) - min(y)) / (max(x) - min(x))
    height = min(2.3 * ratio, 2.6) + 0.6  # a map is about 2.3 inches wide
    figure, axes = figures.panels(len(datasets), len(DATA), height=height)
    for dataset, line in zip(datasets, axes):
        for data, axis in zip(DATA, line):
            here = figures.where(rows, dataset=dataset, data=data)
            _map(figure, axis, here)
            where = f"{dataset}, test domain {here[0]['test_domain']}"
            axis.set_title(f"{where}, trial {here[0]['trial_seed']}, {data.upper()}")
            axis.set_xlabel("distance in weight space")
        line[0].set_ylabel("distance in weight space")
    return figure


def _map(figure: Any, axis: Any, rows: list[Row]) -> None:
    grid = figures.where(rows, what="grid")
    xs, ys = sorted({row["x"] for row in grid}), sorted({row["y"] for row in grid})
    accs = {(row["x"], row["y"]): 100 * row["acc"] for row in grid}
    levels = [[accs[x, y] for x in xs] for y in ys]
    filled = axis.contourf(xs, ys, levels, levels=12, cmap="cividis")
    figure.colorbar(filled, ax=axis, label="accuracy (%)", shrink=0.85)
    for row in rows:
        if row["what"] == "grid":
            continue
        marker, name = ("*", "") if row["what"] == "average" else ("o", row["what"].split(" (")[0])
        style = {"color": figures.VERMILION, "mec": "white", "mew": 0.6, "ls": ""}
        axis.plot(row["x"], row["y"], marker=marker, ms=9 if marker == "*" else 5, **style)
        below = row["y"] == 0
        axis.annotate(
            f"{name or 'average'} {100 * row['acc']:.1f}",
            (row["x"], row["y"]),
            xytext=(0, -8 if below else 6),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize=6.5,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        )
    axis.set_aspect("equal")


def summary(rows: list[Row]) -> str:
    """Which targets' planes were measured."""
    names = {f"{row['dataset']} {row['test_domain']}, trial {row['trial_seed']}" for row in rows}
    return f"{len(rows) // len(DATA)} networks on the planes of {'; '.join(sorted(names))}"


def robust_table(targets: Sequence[Target], limits: Limits) -> list[Row]:
    """Rows of each point from the foundation under the probed head to the average of all runs."""
    return tabulate(targets, _robust)


def _robust(target: Target) -> list[Row]:
    averages = {name: target.of(name) for name in NAMES if len(target.of(name)) > 1}
    if not averages:
        raise MissingRuns(f"robust needs two runs or more of one algorithm on {target}")
    start, rows = target.probed(), []
    for algorithm, members in averages.items():
        files = [start, *(member.weights for member in members)]
        shares_of = {lam: [1 - lam, *[lam / len(members)] * len(members)] for lam in POINTS}
        every = target.measure_all([(files, coefficients) for coefficients in shares_of.values()])
        for lam, accs in zip(POINTS, every):
            few = {"algorithm": algorithm, "n_members": len(members), "coefficient": lam}
            for data in DATA:
                n = target.n_samples(data)
                rows.append({**few, "data": data, "acc": accs[data], "n_samples": n})
    return rows


def draw_robust(rows: list[Row]) -> Any:
    """A panel for each dataset and data; a dot is where accuracy is best."""
    datasets = figures.unique(rows, "dataset")
    figure, axes = figures.panels(len(datasets), len(DATA), height=1.8)
    colours = {FINE_TUNING: figures.ORANGE, INTER_TRAINING: figures.BLUE}
    for dataset, line in zip(datasets, axes):
        for data, axis in zip(DATA, line):
            for algorithm, name in NAMES.items():
                here = figures.where(rows, dataset=dataset, data=data, algorithm=algorithm)
                if not here:
                    continue
                curve = figures.mean_over_domains(here, "coefficient")
                figures.band(axis, curve, color=colours[algorithm], label=name)
                best = max(range(len(curve[0])), key=curve[1].__getitem__)
                axis.plot(curve[0][best], curve[1][best], "o", ms=4, color=colours[algorithm])
            axis.set_title(f"{dataset}, {data.upper()}")
            axis.set_xlabel("from the foundation (0) to the average (1)")
        line[0].set_ylabel("accuracy (%)")
    figures.legend(figure)
    return figure


def robust_summary(rows: list[Row]) -> str:
    """How many segments were measured."""
    return f"{len(rows) // len(DATA) // len(POINTS)} segments of {len(POINTS)} points"
