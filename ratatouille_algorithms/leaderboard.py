"""A leaderboard: algorithms by dataset, one sheet for each selection method, beside published rows.

Cells are those of domainbed's tables of averages, in percent. Nothing here imports torch.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from domainbed import tables
from domainbed.lib import reporting
from domainbed.lib.doubts import distinct_args
from domainbed.lib.query import Q
from domainbed.lib.reporting import Record
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError
from domainbed.tables import Cell, Table
from ratatouille_algorithms.deviations import deviations, fraction, holdout
from ratatouille_algorithms.sheets import BEST, COMPARED, MEASURED, NEAR, PUBLISHED, Item, Sheet

SCORES = ("in", "all")
"""On what of the test domain: its in split, as DomainBed, or all of it, as averages of weights."""

PUBLISHED_DATASETS = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")

BASELINE = "ERM"


def read(folders: Iterable[str | Path]) -> tuple[Q, list[str]]:
    """All records of some sweeps, and what was left out or mixed; a run that is in two counts once.

    Raises `InputError` when there is none.
    """
    folders = list(folders)
    records, problems = reporting.read_records(*folders, once=True)
    if not records:
        raise InputError(
            f"{', '.join(map(repr, map(str, folders)))} holds no records; expected run folders "
            "with results.jsonl, as `sweep launch --output_dir` makes them"
        )
    return Q(records), problems


def rescored(records: Q, score: str) -> Q:
    """The records with the accuracy on the test domain taken on its in split or on all of it.

    Runs that did not record the latter have it put together from their splits, by the fractions
    that were held out; these are rounded to whole samples, so it is exact to 1 / n.
    """
    if score == "in":
        return records
    return records.map(_on_whole_domain)


def _on_whole_domain(record: Record) -> Record:
    args = record["args"]
    env = args["test_envs"][0] if len(args["test_envs"]) == 1 else -1
    key = f"env{env}_in_acc"
    if key not in record:
        return record
    acc = record.get(f"env{env}_all_acc")
    if acc is None:
        out, uda = holdout(args), fraction(args.get("uda_holdout_fraction"), 0.0)
        in_acc: float = record[key]
        uda_acc: float = record.get(f"env{env}_uda_acc", in_acc)
        out_acc: float = record.get(f"env{env}_out_acc", in_acc)
        acc = (1 - out) * ((1 - uda) * in_acc + uda * uda_acc) + out * out_acc
    return {**record, key: acc}


def measured(
    records: Q, selections: Sequence[str], score: str = "in", ddof: int = 0
) -> list[Sheet]:
    """A sheet for each selection method that has any result."""
    some = rescored(records, score)
    built = {name: tables.build(some, SELECTIONS[name], ddof) for name in selections}
    return _sheets(built, records, score)


def _sheets(built: dict[str, list[Table]], records: Q, score: str) -> list[Sheet]:
    where = "whole domain" if score == "all" else f"in split, {_in_share(records)} of the domain"
    caption = (
        "Accuracy (%): mean over test domains, then mean and error over trials. "
        f"Rank: mean over datasets. To {BASELINE}, to best: differences of Avg."
    )
    if score == "all":
        caption += (
            " Averages are measured on the whole domain; of single runs it is put together from "
            "both splits."
        )
    sheets = []
    for name, (*_, table) in built.items():
        title = f"{table.selection}; {where}"
        if any(cell for _, row in table.rows for cell in row):
            sheets.append(_measured_sheet(table, title, caption))
        else:
            sheets.append(
                Sheet(MEASURED, table.selection, "", ["Algorithm"], [], [_why_none(name)])
            )
    return sheets


def _in_share(records: Q) -> str:
    shares = sorted({round(100 * (1 - holdout(args))) for args in distinct_args(records)})
    return " or ".join(f"{share} %" for share in shares)


def _why_none(selection: str) -> str:
    if selection == "loo":
        return (
            "no result: it needs runs with two test domains; sweep without --single_test_envs to "
            "have them"
        )
    return "no result: no run with one test domain has what it needs"


def _measured_sheet(table: Table, title: str, caption: str) -> Sheet:
    by_column = list(zip(*(row for _, row in table.rows)))
    marks = list(zip(*map(marks_of, by_column)))
    ranks = mean_ranks(by_column[:-1])
    averages = {name: row[-1].mean for name, row in table.rows if row[-1]}
    best = max(averages.values(), default=None)
    rows = []
    for (name, row), its_marks, rank in zip(table.rows, marks, ranks):
        rows.append(
            [
                Item(name),
                *map(Item.of, row, its_marks),
                Item("X") if rank is None else Item(f"{rank:.1f}", Cell(rank)),
                Item.signed(_difference(averages.get(name), averages.get(BASELINE))),
                Item.signed(_difference(averages.get(name), best)),
            ]
        )
    header = ["Algorithm", *table.columns, "Rank", f"To {BASELINE}", "To best"]
    return Sheet(MEASURED, title, caption, header, rows)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def is_equal(a: float, b: float) -> bool:
    """Whether two accuracies differ by rounding only, as means of the same counts may."""
    return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)


def within_error(a: Cell, b: Cell) -> bool | None:
    """Whether two means differ by no more than the root of the sum of their squared errors.

    None where an error is not known: not given, or of a single trial.
    """
    if a.error is None or b.error is None or 1 in (a.n, b.n):
        return None
    return abs(a.mean - b.mean) <= math.hypot(a.error, b.error)


def marks_of(cells: Sequence[Cell | None]) -> list[str]:
    """For each cell of a column whether it is the best of several, or within error of it."""
    there = [cell for cell in cells if cell]
    best = max(there, key=lambda cell: cell.mean) if len(there) > 1 else None

    def mark(cell: Cell | None) -> str:
        if cell is None or best is None:
            return ""
        if is_equal(cell.mean, best.mean):
            return BEST
        return NEAR if within_error(cell, best) else ""

    return [mark(cell) for cell in cells]


def mean_ranks(columns: Sequence[Sequence[Cell | None]]) -> list[float | None]:
    """Each row's rank, averaged over columns; equals share theirs, None if a cell is missing."""

    def rank(cell: Cell | None, column: Sequence[Cell | None]) -> float:
        if cell is None:
            return math.nan
        means = [other.mean for other in column if other]
        n_equal = sum(is_equal(mean, cell.mean) for mean in means)
        n_better = sum(mean > cell.mean and not is_equal(mean, cell.mean) for mean in means)
        return n_better + (n_equal + 1) / 2

    by_row = zip(*([rank(cell, column) for cell in column] for column in columns))
    means = [sum(ranks) / len(ranks) for ranks in by_row]
    return [None if math.isnan(mean) else mean for mean in means]


def published() -> list[Sheet]:
    """Published results, a sheet for each protocol: between protocols they are not comparable."""
    text = Path(__file__).with_name("published.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(text.splitlines()))
    return [
        _published_sheet(protocol, list(some))
        for protocol, some in groupby(lines, key=lambda line: line["protocol"])
    ]


def _published_sheet(protocol: str, lines: list[dict[str, str]]) -> Sheet:
    cells = [
        [
            *(_cell(line[name], line[f"{name}_error"]) for name in PUBLISHED_DATASETS),
            _cell(line["avg"]),
        ]
        for line in lines
    ]
    marks = zip(*map(marks_of, zip(*cells)))
    rows = [
        [
            Item(line["algorithm"]),
            *(Item.of(cell, mark, missing="") for cell, mark in zip(row, its_marks)),
            Item(line["selection"]),
            Item(line["source"], url=line["url"]),
        ]
        for line, row, its_marks in zip(lines, cells, marks)
    ]
    header = ["Algorithm", *PUBLISHED_DATASETS, "Avg", "Selection", "Source"]
    caption = "As its authors report it, not measured here; ResNet-50, accuracy (%)."
    return Sheet(PUBLISHED, protocol, caption, header, rows)


def _cell(mean: str, error: str = "") -> Cell | None:
    """A published number; how many trials its error is over is not in the table."""
    return Cell(float(mean), float(error) if error else None, 0) if mean else None


def build(
    records: Q,
    selections: Sequence[str],
    score: str = "in",
    ddof: int = 0,
    with_published: bool = True,
) -> list[Sheet]:
    """The whole leaderboard: measured sheets, then published ones.

    What was run otherwise than published results were is noted at the last measured sheet.
    """
    some = rescored(records, score)
    built = {name: tables.build(some, SELECTIONS[name], ddof) for name in selections}
    return of_tables(built, records, score, with_published)


def of_tables(
    built: dict[str, list[Table]], records: Q, score: str = "in", with_published: bool = True
) -> list[Sheet]:
    """The whole leaderboard, from the tables of each selection method of these records."""
    sheets = _sheets(built, records, score)
    sheets[-1].notes.extend(deviations(records))
    return sheets + published() if with_published else sheets


def shares_published(records: Q) -> bool:
    """Whether any dataset was run that published results are of."""
    return any(record["args"]["dataset"] in PUBLISHED_DATASETS for record in records)


def compared(
    records: Q,
    others: Q,
    names: tuple[str, str],
    selections: Sequence[str],
    score: str = "in",
    ddof: int = 0,
) -> list[Sheet]:
    """Two sweeps side by side, a sheet for each selection method."""
    sheets = []
    for selection in selections:
        method = SELECTIONS[selection]
        ours, theirs = (
            _cells_by_place(tables.build(rescored(some, score), method, ddof)[-1])
            for some in (records, others)
        )
        rows = [
            _comparison(place, ours.get(place), theirs.get(place))
            for place in sorted({**ours, **theirs}, key=_by_column([*ours, *theirs]))
        ]
        header = ["Algorithm", "Dataset", *names, "Difference", "Within error"]
        caption = f"Accuracy (%), difference: {names[0]} minus {names[1]}."
        if rows:
            sheets.append(Sheet(COMPARED, method.name, caption, header, rows))
    return sheets


def _by_column(places: list[tuple[str, str]]):
    """A key that keeps what is of one dataset together, in order of first appearance."""
    datasets = list(dict.fromkeys(dataset for _, dataset in places))
    algorithms = list(dict.fromkeys(algorithm for algorithm, _ in places))
    return lambda place: (datasets.index(place[1]), algorithms.index(place[0]))


def _cells_by_place(table: Table) -> dict[tuple[str, str], Cell]:
    return {
        (name, column): cell
        for name, row in table.rows
        for column, cell in zip(table.columns, row)
        if cell is not None
    }


def _comparison(place: tuple[str, str], ours: Cell | None, theirs: Cell | None) -> list[Item]:
    difference = within = None
    if ours and theirs:
        difference, within = ours.mean - theirs.mean, within_error(ours, theirs)
        answer = {True: "yes", False: "no", None: "error unknown"}[within]
    else:
        answer = "X"
    algorithm, dataset = place
    numbers = [Item.of(ours), Item.of(theirs), Item.signed(difference)]
    return [Item(algorithm), Item(dataset), *numbers, Item(answer)]
