"""What all figures share: colours, sizes, panels, means with their uncertainty.

Sizes are those of a two-column paper, colours those of Okabe & Ito, which colour-blind readers tell
apart. matplotlib is imported when something is drawn, and never opens a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]

BLACK, GREY = "#000000", "#999999"
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE, YELLOW = "#D55E00", "#CC79A7", "#F0E442"
CYCLE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, YELLOW)

WIDTH, HEIGHT = 7.0, 9.3
"""Inches of a page's two columns, and the most that a figure takes of them."""

_STYLE: Any = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


def write(draw: Callable[[list[Row]], Any], rows: list[Row], stem: Path) -> None:
    """Write the figure that is drawn of a table's rows, as PNG and PDF; empty panels are blank."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        figure = draw(rows)
        for axis in figure.axes:
            if not axis.has_data():
                axis.set_axis_off()
        for suffix in (".png", ".pdf"):
            figure.savefig(stem.with_suffix(suffix))
        pyplot.close(figure)


def panels(n_rows: int, n_columns: int, height: float = 1.55) -> tuple[Any, Any]:
    """A figure of the page's width and its axes as an array of rows, of `height` inches each.

    Where they would not fit on a page, rows are lower.
    """
    from matplotlib import pyplot

    size = (WIDTH, min(height * n_rows + 0.45, HEIGHT))
    return pyplot.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")


def legend(figure: Any, n_columns: int = 4) -> None:
    """One legend for all panels, below them."""
    labelled: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            labelled.setdefault(label, handle)
    if labelled:
        figure.legend(
            list(labelled.values()),
            list(labelled),
            loc="outside lower center",
            ncols=min(n_columns, len(labelled)),
        )


def where(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def unique(rows: Iterable[Row], key: str) -> list[Any]:
    """The values of a column in order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def nanmean(values: Iterable[float]) -> float:
    """The mean of what is a number; NaN if nothing is."""
    some = [value for value in values if not math.isnan(value)]
    return sum(some) / len(some) if some else math.nan


def mean_over_domains(rows: list[Row], x: str) -> tuple[list[float], list[float], list[float]]:
    """By x: the mean accuracy over test domains, and its standard error from the finite samples.

    Accuracies in percent; an accuracy p on n samples has the variance p (1 - p) / n. Rows of one
    test domain, such as those of several trials, are averaged first: they share samples.
    """
    xs = sorted(unique(rows, x))
    means, errors = [], []
    for value in xs:
        domains: dict[tuple, list[Row]] = {}
        for row in rows:
            if row[x] == value:
                domains.setdefault((row["dataset"], row["test_domain"]), []).append(row)
        accs = [sum(row["acc"] for row in some) / len(some) for some in domains.values()]
        sizes = [some[0]["n_samples"] for some in domains.values()]
        means.append(100 * sum(accs) / len(accs))
        variance = sum(p * (1 - p) / n for p, n in zip(accs, sizes))
        errors.append(100 * math.sqrt(variance) / len(accs))
    return xs, means, errors


def spread_over(
    rows: list[Row], x: str, key: Callable[[Row], Any]
) -> tuple[list[float], list[float], list[float]]:
    """By x: the mean accuracy over targets and draws, and its standard deviation over draws.

    `key` tells draws apart; accuracies in percent.
    """
    xs = sorted(unique(rows, x))
    means, errors = [], []
    for value in xs:
        draws: dict[Any, list[float]] = {}
        for row in rows:
            if row[x] == value:
                draws.setdefault(key(row), []).append(100 * row["acc"])
        of_draws = [sum(accs) / len(accs) for accs in draws.values()]
        means.append(float(np.mean(of_draws)))
        errors.append(float(np.std(of_draws)))
    return xs, means, errors


def band(
    axis: Any, curve: tuple[Sequence[float], Sequence[float], Sequence[float]], **style: Any
) -> None:
    """A line with a band of one error up and down around it."""
    xs, means, errors = (np.array(part) for part in curve)
    (line,) = axis.plot(xs, means, **style)
    axis.fill_between(xs, means - errors, means + errors, color=line.get_color(), alpha=0.15, lw=0)


def trend(axis: Any, xs: Sequence[float], ys: Sequence[float], n_draws: int = 500) -> None:
    """The least-squares line with its 95 % band, and Pearson's r, by a bootstrap over points."""
    x, y = np.array(xs), np.array(ys)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return
    rng = np.random.RandomState(0)
    grid = np.linspace(x.min(), x.max(), 20)
    lines, rs = [], []
    for _ in range(n_draws):
        some = rng.randint(len(x), size=len(x))
        if np.ptp(x[some]) > 0 and np.ptp(y[some]) > 0:
            lines.append(np.polyval(np.polyfit(x[some], y[some], 1), grid))
            rs.append(np.corrcoef(x[some], y[some])[0, 1])
    low, high = np.percentile(lines, [2.5, 97.5], axis=0)
    axis.fill_between(grid, low, high, color=GREY, alpha=0.25, lw=0)
    axis.plot(grid, np.polyval(np.polyfit(x, y, 1), grid), color=BLACK, lw=0.9)
    r_low, r_high = np.percentile(rs, [2.5, 97.5])
    r = np.corrcoef(x, y)[0, 1]
    axis.set_title(f"r = {r:.2f} [{r_low:.2f}, {r_high:.2f}]", fontsize=6.5, pad=2)
