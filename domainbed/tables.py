"""Result tables as data, and as text, LaTeX, CSV, Markdown or HTML. Accuracies are in percent."""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from domainbed import algorithms, datasets
from domainbed.lib.doubts import distinct_args, mixed_protocols
from domainbed.lib.query import Q
from domainbed.lib.reporting import get_grouped_records
from domainbed.model_selection import SelectionMethod
from domainbed.registry import Registry


@dataclass(frozen=True)
class Cell:
    """A mean and its error in percent over n trials; no error for an average of cells."""

    mean: float
    error: float | None = None
    n: int = 1


@dataclass(frozen=True)
class Table:
    """Rows of cells, None where there is no result; dataset is None for a table of averages.

    protocols: those of its runs, if they are of more than one, so that no reader compares them.
    """

    selection: str
    dataset: str | None
    columns: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    protocols: str = ""


def summarise(accs: Iterable[float], ddof: int = 0) -> Cell | None:
    """Mean and standard error in percent of accuracies in [0, 1]; None for none."""
    values = list(accs)
    if not values:
        return None
    n = len(values)
    error = 100 * np.std(values, ddof=ddof) / np.sqrt(n) if n > ddof else np.nan
    return Cell(100 * float(np.mean(values)), float(error), n)


def in_order(names: Iterable[str], listed: list[str], registry: Registry) -> list[str]:
    """Names each once: DomainBed's in its order, others registered in theirs, the rest as seen."""
    names = dict.fromkeys(names)
    known = dict.fromkeys([*listed, *registry])
    return [name for name in known if name in names] + [n for n in names if n not in known]


def build(records: Q, selection: type[SelectionMethod], ddof: int = 0) -> list[Table]:
    """A table for each dataset, and one of their averages, for one selection method."""
    groups = [
        {**group, "acc": acc}
        for group in get_grouped_records(records)
        if (acc := selection.sweep_acc(group["records"])) is not None
    ]
    seen = distinct_args(records)
    # a dataset or an algorithm without any result still has its row of X
    seen = [args for args in seen if any(env >= 0 for env in args["test_envs"])]
    names = in_order(
        (args["algorithm"] for args in seen), algorithms.ALGORITHMS, algorithms.REGISTRY
    )
    dataset_names = in_order((a["dataset"] for a in seen), datasets.DATASETS, datasets.REGISTRY)
    found: dict[tuple[str, str], list[dict]] = {}
    for group in groups:
        found.setdefault((group["algorithm"], group["dataset"]), []).append(group)
    tables = []
    for dataset in dataset_names:
        envs = env_names(records, dataset)
        table = _dataset_table(found, names, dataset, envs, selection.name, ddof)
        mixed = mixed_protocols(args for args in seen if args["dataset"] == dataset)
        tables.append(replace(table, protocols=mixed))
    table = _averages_table(found, names, dataset_names, selection.name, ddof)
    return [*tables, replace(table, protocols=mixed_protocols(seen))]


def _dataset_table(
    found: dict, names: list[str], dataset: str, envs: list[str], selection: str, ddof: int
) -> Table:
    rows = []
    for name in names:
        groups = found.get((name, dataset), [])
        cells = [
            summarise((g["acc"] for g in groups if g["test_env"] == env), ddof)
            for env in range(len(envs))
        ]
        rows.append((name, [*cells, _mean(cells)]))
    return Table(selection, dataset, [*envs, "Avg"], rows)


def _averages_table(
    found: dict, names: list[str], dataset_names: list[str], selection: str, ddof: int
) -> Table:
    """Of each trial the mean over test domains; then mean and error over trials."""
    rows = []
    for name in names:
        cells = []
        for dataset in dataset_names:
            trials: dict[int, list[float]] = {}
            for group in found.get((name, dataset), []):
                trials.setdefault(group["trial_seed"], []).append(group["acc"])
            means = [float(np.mean(trials[trial])) for trial in sorted(trials)]  # to the last bit
            cells.append(summarise(means, ddof))
        rows.append((name, [*cells, _mean(cells)]))
    return Table(selection, None, [*dataset_names, "Avg"], rows)


def _mean(cells: list[Cell | None]) -> Cell | None:
    if not cells or None in cells:
        return None
    return Cell(float(np.mean([cell.mean for cell in cells if cell is not None])))


def env_names(records: Q, dataset: str) -> list[str]:
    """The names of a dataset's domains: registered, else as recorded, else their numbers."""
    if dataset in datasets.REGISTRY:
        return datasets.environments(dataset)
    of_dataset = [r for r in records if r["args"]["dataset"] == dataset]
    record = max(of_dataset, key=lambda r: "env0_in_acc" in r)
    n = next(i for i in itertools.count() if f"env{i}_in_acc" not in record)
    names = record.get("environments")
    if isinstance(names, list) and len(names) == n and all(type(x) is str for x in names):
        return names
    return [str(i) for i in range(n)]


def cell_text(cell: Cell | None, plus_minus: str = "+/-") -> str:
    """A cell such as "98.0 +/- 0.2", "X" for none."""
    if cell is None:
        return "X"
    if cell.error is None:
        return f"{cell.mean:.1f}"
    return f"{cell.mean:.1f} {plus_minus} {cell.error:.1f}"


def _titles(table: Table) -> tuple[str, int]:
    """A table's heading and the width of its columns."""
    title, width = ("Averages", 25) if table.dataset is None else (f"Dataset: {table.dataset}", 20)
    return f"{title}, model selection method: {table.selection}{_warning(table)}", width


def _warning(table: Table) -> str:
    """What a heading says of a table that mixes protocols."""
    return f" (protocols mixed: {table.protocols})" if table.protocols else ""


def text_table(title: str, rows: list[list[str]], width: int) -> str:
    """A table in DomainBed's plain format, after an empty line."""
    lines = ["", f"-------- {title}"]
    lines += ["  ".join(cell.ljust(width)[:width] for cell in row) + " " for row in rows]
    return "\n".join(lines) + "\n"


def latex_table(rows: list[list[str]], width: int) -> str:
    """A table in DomainBed's LaTeX; needs booktabs and adjustbox.

    Cells are LaTeX already. They are padded, never cut: a cut could lose a closing brace.
    """

    def line(cells: list[str]) -> str:
        return " & ".join(cell.ljust(width) for cell in cells) + " \\\\"

    header = [f"\\textbf{{{label}}}" for label in rows[0]]
    return "\n".join(
        [
            "\\begin{center}",
            "\\adjustbox{max width=\\textwidth}{%",
            "\\begin{tabular}{l" + "c" * (len(header) - 1) + "}",
            "\\toprule",
            line(header),
            "\\midrule",
            *map(line, rows[1:]),
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{center}",
        ]
    )


_LATEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}


def latex_escape(text: str) -> str:
    """A name as LaTeX text."""
    return re.sub(r"[%&#$_{}\\~^]", lambda m: _LATEX.get(m[0], "\\" + m[0]), text)


def _cells(table: Table, plus_minus: str) -> list[list[str]]:
    header = ["Algorithm", *table.columns]
    return [header, *([name, *(cell_text(c, plus_minus) for c in row)] for name, row in table.rows)]


def render_text(tables: list[Table], n_records: int) -> str:
    """Plain text, as DomainBed prints it."""
    parts = [f"Total records: {n_records}\n"]
    for table in tables:
        title, width = _titles(table)
        parts.append(text_table(title, _cells(table, "+/-"), width))
    return "".join(parts)


def render_latex(tables: list[Table], n_records: int) -> str:
    """A LaTeX document, as DomainBed prints it."""
    parts = [
        "\\documentclass{article}",
        "\\usepackage{booktabs}",
        "\\usepackage{adjustbox}",
        "\\begin{document}",
        "\\section{Full DomainBed results}",
        f"% Total records: {n_records}",
    ]
    for selection, some in itertools.groupby(tables, lambda table: table.selection):
        parts += ["", f"\\subsection{{Model selection: {selection}}}"]
        for table in some:
            _, width = _titles(table)
            title = latex_escape(f"{table.dataset or 'Averages'}{_warning(table)}")
            parts += ["", f"\\subsubsection{{{title}}}", ""]
            header, *rows = _cells(table, "$\\pm$")
            rows = [[latex_escape(name), *cells] for name, *cells in rows]
            parts.append(latex_table([[latex_escape(label) for label in header], *rows], width))
    return "\n".join([*parts, "\\end{document}"]) + "\n"


def render_csv(tables: list[Table], n_records: int) -> str:
    """One line for each cell: percent, the number of trials, and what is mixed if anything is."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    is_mixed = any(table.protocols for table in tables)
    header = ["selection", "dataset", "algorithm", "column", "mean", "error", "n_trials"]
    writer.writerow([*header, "protocols_mixed"] if is_mixed else header)
    for table in tables:
        for name, row in table.rows:
            for column, cell in zip(table.columns, row):
                values = ["", "", ""] if cell is None else [cell.mean, cell.error, cell.n]
                line = [table.selection, table.dataset or "Averages", name, column, *values]
                writer.writerow([*line, table.protocols] if is_mixed else line)
    return out.getvalue()


def render_markdown(tables: list[Table], n_records: int) -> str:
    """Markdown tables under headings."""
    parts = [f"Total records: {n_records}"]
    for table in tables:
        rows = [[c.replace("|", "\\|") for c in row] for row in _cells(table, "±")]
        parts += ["", f"### {_titles(table)[0]}", ""]
        parts += ["| " + " | ".join(row) + " |" for row in rows[:1]]
        parts += ["|---" * len(rows[0]) + "|"]
        parts += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    return "\n".join(parts) + "\n"


def render_html(tables: list[Table], n_records: int) -> str:
    """HTML tables; every text is escaped."""
    parts = [f"<p>Total records: {n_records}</p>"]
    for table in tables:
        header, *rows = [[html.escape(cell) for cell in row] for row in _cells(table, "±")]
        parts.append(f"<h3>{html.escape(_titles(table)[0])}</h3>\n<table>")
        parts.append("<tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr>")
        parts += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
        parts.append("</table>")
    return "\n".join(parts) + "\n"


RENDERERS: dict[str, Callable[[list[Table], int], str]] = {
    "text": render_text,
    "latex": render_latex,
    "csv": render_csv,
    "markdown": render_markdown,
    "html": render_html,
}
