"""A report of a sweep: one self-contained HTML page, of what its folder holds and nothing else.

Whoever wrote the run folders controls every string in them, so all text is escaped, data is
embedded as JSON that cannot end its element, links are relative paths, and the page's own policy
lets nothing run but its own script.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import html
import json
import os
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import domainbed
from domainbed import tables
from domainbed.lib import reporting
from domainbed.lib.doubts import doubts, unfinished
from domainbed.lib.files import read_regular, read_text
from domainbed.lib.query import Q
from domainbed.model_selection import SELECTIONS
from domainbed.runs import DONE
from ratatouille_algorithms import inventory, leaderboard
from ratatouille_algorithms.inventory import AVERAGE, RUN
from ratatouille_algorithms.report_facts import (
    by_dataset,
    cost,
    count,
    duration,
    ingredients,
    leakage,
    listed,
)
from ratatouille_algorithms.report_runs import dataset_names, grouped
from ratatouille_algorithms.sheets import MEASURED, Item, Sheet, html_table, render_html

escape = html.escape

CAPTIONS = {
    "connectivity": "Accuracy on segments between the weights of two runs, before and after "
    "fine-tuning; dashed, the chord between their ends. Two runs are connected where accuracy is "
    "not below it.",
    "diversity": "Ratio-errors of pairs of runs, from the same initialisation and from different "
    "ones, and what averaging a pair gains against its diversity.",
    "scaling": "Accuracy of the average against the number of its members and of their "
    "initialisations; the band is the standard deviation over subsets.",
    "plane": "Accuracy on the plane through the weights of three members.",
    "robust": "Accuracy on the segment from the foundation to the average of all members; a dot "
    "is the best point.",
    "coefficients": "Accuracy against the share of one initialisation in the average, and OOD "
    "against ID accuracy of the same mixtures.",
}
"""Of the figures that `analyze` draws, unless a text file beside one says otherwise."""

SHOWN = ("iid", "loo", "oracle")
"""The selection methods of a report."""

_PNG = b"\x89PNG\r\n\x1a\n"


class Sources:
    """All that a report is made of, read once."""

    def __init__(self, folders: list[Path], analysis: list[Path], output: Path) -> None:
        self.folders, self.analysis, self.output = folders, analysis, output
        self.runs = inventory.read(*folders)
        in_tables = [r for r in self.runs if r.path.parent in folders and r.recorded is not None]
        records = [record for run in in_tables for record in run.recorded or ()]
        self.problems = [
            *reporting.shortened([problem for run in self.runs for problem in run.problems]),
            *unfinished(str(run.path) for run in in_tables),
            *doubts(records, once=True),
        ]
        self.records = Q(reporting.each_once(records))
        self.tables = {name: tables.build(self.records, SELECTIONS[name]) for name in SHOWN}
        groups = grouped(self.runs, self.records, self.link)
        self.groups = [(group["title"], len(group["runs"]), as_json(group)) for group in groups]

    def link(self, path: Path) -> str:
        """A relative link from the page; no scheme can be in it."""
        parent = _relative(path.parent, self.output.parent)
        return "./" + quote(os.fsencode(Path(parent, path.name).as_posix()), safe="/")


@functools.cache
def _relative(path: Path, start: Path) -> str:
    return os.path.relpath(path.absolute(), start.absolute())


def page(sources: Sources, title: str) -> str:
    """The whole page."""
    sections = {
        "Summary": _summary,
        "Leaderboard": _leaderboard,
        "What was run": _what,
        "Figures": _figures,
        "Runs": _runs,
        "Failed and unfinished": _failed,
        "Left out": _problems,
    }
    built = {name: section(sources) for name, section in sections.items()}
    shown = {name: text for name, text in built.items() if text}
    part = resources.files("ratatouille_algorithms") / "report_page"
    template, style, script = (
        (part / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "page.js")
    )
    text = Template(template).substitute(
        title=escape(title),
        subtitle=escape(
            f"{', '.join(map(str, sources.folders))}, {datetime.date.today():%d %B %Y}"
        ),
        nav=" ".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in shown),
        sections="\n".join(
            f'<section id="{_anchor(name)}" aria-labelledby="h-{_anchor(name)}">'
            f'<h2 id="h-{_anchor(name)}">{name}</h2>\n{text}</section>'
            for name, text in shown.items()
        ),
        footer=escape(f"domainbed-ratatouille {domainbed.__version__}"),
        data="\n".join(
            f'<script type="application/json" id="group-{i}">{text}</script>'
            for i, (_, _, text) in enumerate(sources.groups)
        ),
        style=style,
        script=script,
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )
    # names of files that are not UTF-8, and JSON, may have halves of characters
    return text.encode("utf-8", errors="backslashreplace").decode()


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def as_json(value: Any) -> str:
    """JSON that is safe inside a script element: no "<", ">" or "&" is left in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _summary(sources: Sources) -> str:
    runs = sources.runs
    states = Counter(run.state for run in runs)
    others = ", ".join(f"{n} {state.lower()}" for state, n in states.items() if state != DONE)
    board = [run for run in runs if run.kind in (RUN, AVERAGE)]
    n_trials = len({str(run.args.get("trial_seed")) for run in board if run.records})
    names = dataset_names(board)
    facts = [
        ("Jobs done", f"{states[DONE]} of {len(runs)}", others or "none failed"),
        ("Datasets", str(len(names)), listed(names)),
        ("Algorithms", str(len({r.algorithm for r in board})), count(n_trials, "trial")),
        (
            "Updates",
            f"{sum(run.n_steps for run in runs):,}",
            f"{duration(sum(run.seconds for run in runs))}, without loading and evaluation",
        ),
        *_headline(sources.tables["iid"][-1]),
    ]
    return _facts(facts)


def _headline(table: tables.Table) -> list[tuple[str, str, str]]:
    averages = {name: row[-1].mean for name, row in table.rows if row and row[-1]}
    if len(averages) < 2:
        return []
    highest = max(averages.values())
    best = " and ".join(n for n, mean in averages.items() if leaderboard.is_equal(mean, highest))
    more = f"{highest:.1f} % on average"
    if leaderboard.BASELINE in averages and best != leaderboard.BASELINE:
        gain = highest - averages[leaderboard.BASELINE]
        more += f", {gain:+.1f} to {leaderboard.BASELINE}"
    return [("Best by ID validation", best, more)]


def _facts(facts: Iterable[tuple[str, str, str]]) -> str:
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in facts
    )
    return f'<dl class="facts">{items}</dl>'


def _leaderboard(sources: Sources) -> str:
    records = sources.records
    if not any(env >= 0 for record in records for env in record["args"]["test_envs"]):
        return "<p>No run with a test domain has recorded anything yet.</p>"
    has_published = leaderboard.shares_published(records)
    sheets = leaderboard.of_tables(sources.tables, records, with_published=has_published)
    toggle = '<label><input type="checkbox" id="show-published" checked> Published results</label>'
    by_domain = [
        _domain_sheet(table)
        for built in sources.tables.values()
        for table in built[:-1]
        if any(cell for _, row in table.rows for cell in row)
    ]
    return "\n".join(
        [
            '<div class="controls needs-script" hidden>',
            '<label for="filter-board">Show algorithms named '
            '<input type="search" id="filter-board" aria-describedby="shown-board" '
            'placeholder="such as: diwa, erm"></label>',
            toggle if has_published else "",
            '<span id="shown-board" role="status"></span></div>',
            render_html(sheets),
            f"<details><summary>By test domain ({len(by_domain)} tables)</summary>",
            render_html(by_domain),
            "</details>",
        ]
    )


def _domain_sheet(table: tables.Table) -> Sheet:
    marks = zip(*map(leaderboard.marks_of, zip(*(row for _, row in table.rows))))
    rows = [[Item(name), *map(Item.of, row, m)] for (name, row), m in zip(table.rows, marks)]
    title = f"{table.dataset}: {table.selection}"
    return Sheet(MEASURED, title, "", ["Algorithm", *table.columns], rows)


def _what(sources: Sources) -> str:
    runs = sources.runs
    return "\n".join(
        [
            "<h3>Datasets and protocol</h3>",
            _table(by_dataset(runs)),
            "<h3>Jobs and cost</h3>",
            _table(cost(runs)),
            '<p class="caption">Seconds are those of updates, the sum of step_time over steps; '
            "loading, evaluation and start-up come on top. Averages do no updates.</p>",
            "<h3>Foundation and ingredients</h3>",
            _table(ingredients(runs)),
            f"<p>{escape(leakage(runs))}</p>",
        ]
    )


def _table(sheet: Sheet) -> str:
    return html_table(sheet) if sheet.rows else "<p>None.</p>"


def _figures(sources: Sources) -> str:
    parts = []
    files = [file for folder in sources.analysis for file in sorted(folder.rglob("*.png"))]
    for file in files:
        content = _content(file)
        if content.startswith(_PNG):
            name, caption = escape(file.stem.replace("_", " ")), escape(_caption(file))
            image = base64.b64encode(content).decode()
            parts.append(
                f'<figure><img src="data:image/png;base64,{image}" alt="Figure: {name}. {caption}">'
                f"<figcaption><strong>{name}</strong> {caption} {_siblings(file, sources)}"
                "</figcaption></figure>"
            )
    if parts:
        return "\n".join(parts)
    return (
        f"<p>There are no figures in {escape(', '.join(map(str, sources.analysis)))}. "
        "<code>python -m ratatouille_algorithms.scripts.analyze</code> draws them.</p>"
    )


def _content(file: Path) -> bytes:
    """A file's bytes; none of what cannot be read."""
    try:
        return read_regular(file)
    except OSError:
        return b""


def _caption(file: Path) -> str:
    """The text beside a figure, in a file of its name and the ending .txt, or a known figure's."""
    try:
        return read_text(file.with_suffix(".txt")).strip()
    except OSError:
        return CAPTIONS.get(file.stem, "")


def _siblings(file: Path, sources: Sources) -> str:
    """Links to the same figure as PDF and its numbers as CSV, where they are."""
    there = [file.with_suffix(end) for end in (".pdf", ".csv") if file.with_suffix(end).exists()]
    links = (f'<a href="{escape(sources.link(p))}">{p.suffix[1:].upper()}</a>' for p in there)
    return " ".join(links)


def _runs(sources: Sources) -> str:
    lines = [
        '<div class="controls needs-script" hidden>',
        '<label for="filter-runs">Show groups of <input type="search" id="filter-runs" '
        'aria-describedby="shown-runs" placeholder="such as: erm rotateddigits"></label>',
        '<button type="button" id="open-all">Open or close all</button>',
        '<span id="shown-runs" role="status"></span></div>',
        "<noscript><p>Runs are drawn by this page's script, which is switched off.</p></noscript>",
        "<p>Open a group for its runs, their hyper-parameters and curves. Validation is the mean "
        "accuracy on the training domains' out splits, test that on the in split of the test "
        "domain; numbers are those of the best step by validation. Runs in bold are those that "
        "ID validation selects. What is open is printed.</p>",
        _KEY,
    ]
    for i, (title, n_runs, _) in enumerate(sources.groups):
        n = count(n_runs, "run")
        lines.append(
            f'<details class="group" data-group="{i}"><summary>{escape(title)} '
            f'<span class="count">{n}</span></summary></details>'
        )
    return "\n".join(lines)


_KEY = (
    '<ul class="key">'
    + "".join(
        f'<li><svg width="34" height="8" aria-hidden="true">'
        f'<line class="line {name}" x1="0" y1="4" x2="34" y2="4"/></svg>{text}</li>'
        for name, text in (("val", "validation"), ("test", "test"), ("loss", "loss"))
    )
    + "</ul>"
)


def _failed(sources: Sources) -> str:
    left = [run for run in sources.runs if run.state != DONE]
    if not left:
        return ""
    rows = []
    for run in left:
        link = f'<a href="{escape(sources.link(run.path))}">{escape(run.path.name)}</a>'
        values = (run.kind, run.algorithm, run.dataset, run.test_domains, run.state, run.failure)
        names = ("Kind", "Algorithm", "Dataset", "Test domain", "State", "Reason")
        cells = (f'<td data-label="{n}">{escape(v)}</td>' for n, v in zip(names, values))
        rows.append(f'<tr><th scope="row">{link}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Run", *names))
    return (
        '<div class="wide"><table class="sortable"><caption class="unseen">Failed and unfinished '
        f"jobs</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _problems(sources: Sources) -> str:
    items = "".join(f"<li>{escape(problem)}</li>" for problem in sources.problems)
    return f'<ul class="notes">{items}</ul>' if items else ""
