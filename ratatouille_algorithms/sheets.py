"""Sheets: tables whose numbers keep their error, their mark and where they come from.

Each renderer takes all sheets of an output and returns its text.
"""

from __future__ import annotations

import csv
import html
import io
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from domainbed.tables import Cell, cell_text, latex_escape, latex_table

MEASURED, PUBLISHED, COMPARED = "measured", "published", "compared"

BEST, NEAR = "best", "near"

LEGEND = {
    "text": "* best of its column; ~ not as good, but within error of the best",
    "md": "**Bold**: best of its column; <u>underlined</u>: within error of the best.",
    "latex": "Bold: best of its column; underlined: within error of the best.",
    "html": "<strong>Bold</strong>: best of its column; <u>underlined</u>: within error of the "
    "best.",
}

WITHIN = (
    "Two means are within error of each other if they differ by no more than the root of the sum "
    "of their squared errors; with a single trial no error is known."
)


@dataclass(frozen=True)
class Item:
    """An entry of a sheet: a text, or a number with its text; `mark` is `BEST`, `NEAR` or ""."""

    text: str
    cell: Cell | None = None
    mark: str = ""
    url: str = ""

    @staticmethod
    def of(cell: Cell | None, mark: str = "", missing: str = "X") -> Item:
        """A mean and its error; `missing` for none, and no error of a single trial."""
        if cell is None:
            return Item(missing)
        shown = Cell(cell.mean) if cell.n == 1 else cell
        return Item(cell_text(shown, "±"), cell, mark)

    @staticmethod
    def signed(value: float | None) -> Item:
        """A difference."""
        if value is None:
            return Item("X")
        return Item(f"{round(value, 1) + 0.0:+.1f}", Cell(value))


@dataclass(frozen=True)
class Sheet:
    """A titled table; the first entry of a row names it. `kind` says where its numbers are from."""

    kind: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[Item]]
    notes: list[str] = field(default_factory=list)

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(row[column].cell is not None for row in self.rows)

    def has(self, mark: str) -> bool:
        """Whether anything bears a mark."""
        return any(item.mark == mark for row in self.rows for item in row)


def render_text(sheets: list[Sheet]) -> str:
    """Plain text: columns as wide as they must be, in ASCII but for names."""
    parts = []
    for sheet in sheets:
        parts += [f"== {sheet.kind}: {sheet.title} ==", *_wrapped(sheet.caption)]
        parts += ["", *_text_lines(sheet), ""] if sheet.rows else []
        for note in sheet.notes:
            parts += _wrapped(f"note: {note}", "      ")
        parts += [""] if sheet.notes else []
    if any(sheet.has(BEST) for sheet in sheets):
        parts += [LEGEND["text"], *_wrapped(WITHIN)]
    return "\n".join(parts).rstrip() + "\n"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, 100, subsequent_indent=indent)


def _text_lines(sheet: Sheet) -> list[str]:
    suffix = {BEST: " *", NEAR: " ~", "": "  "}
    rows = [[_ascii(item) + suffix[item.mark] for item in row] for row in sheet.rows]
    rows = [[f"{name}  " for name in sheet.header], *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if sheet.is_number(i) else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        ]
        lines.append(" ".join(cells).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _ascii(item: Item) -> str:
    return item.text.replace("±", "+/-") if item.cell else item.text


def render_markdown(sheets: list[Sheet]) -> str:
    """Markdown tables under headings."""
    parts = []
    for sheet in sheets:
        parts += [f"### {_markdown(f'{sheet.kind}: {sheet.title}')}", ""]
        parts += [_markdown(sheet.caption), ""] if sheet.caption else []
        parts += [*_markdown_lines(sheet), ""] if sheet.rows else []
        parts += [*(f"- {_markdown(note)}" for note in sheet.notes)]
        parts += [""] if sheet.notes else []
    if any(sheet.has(BEST) for sheet in sheets):
        parts.append(f"{LEGEND['md']} {WITHIN}")
    return "\n".join(parts).rstrip() + "\n"


def _markdown_lines(sheet: Sheet) -> list[str]:
    lines = [[_markdown(name) for name in sheet.header]]
    lines.append(["---:" if sheet.is_number(i) else "---" for i in range(len(sheet.header))])
    around = {BEST: "**{}**", NEAR: "<u>{}</u>", "": "{}"}
    for row in sheet.rows:
        texts = [around[item.mark].format(_markdown(item.text)) for item in row]
        lines.append([f"[{t}]({i.url})" if i.url else t for t, i in zip(texts, row)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _markdown(text: str) -> str:
    """A text whose characters mean nothing in Markdown."""
    text = " ".join(html.escape(text, quote=False).split())
    return "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in text)


def render_latex(sheets: list[Sheet]) -> str:
    """A LaTeX document; its tables need booktabs and adjustbox."""
    parts = [
        "\\documentclass{article}",
        "\\usepackage[utf8]{inputenc}",
        "\\usepackage{booktabs}",
        "\\usepackage{adjustbox}",
        "\\begin{document}",
    ]
    around = {BEST: "\\textbf{%s}", NEAR: "\\underline{%s}", "": "%s"}
    for sheet in sheets:
        rows = [[around[i.mark] % _latex_item(i) for i in row] for row in sheet.rows]
        header = [_latex(name) for name in sheet.header]
        parts += ["", f"\\subsection*{{{_latex(f'{sheet.kind}: {sheet.title}')}}}"]
        parts.append(_latex(sheet.caption))
        parts += ["", latex_table([header, *rows], 0)] if rows else []
        parts += [f"\n\\noindent {_latex(note)}" for note in sheet.notes]
    if any(sheet.has(BEST) for sheet in sheets):
        parts += ["", f"\\noindent {LEGEND['latex']} {WITHIN}"]
    return "\n".join([*parts, "\\end{document}"]) + "\n"


def _latex_item(item: Item) -> str:
    text = _latex(item.text)
    return f"$-${text[1:]}" if item.cell and text.startswith("-") else text


def _latex(text: str) -> str:
    return latex_escape(text).replace("±", "$\\pm$")


def render_csv(sheets: list[Sheet]) -> str:
    """A line for each number, unrounded; an error of nothing or of a single trial is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow("kind title row column value error n_trials mark about".split())
    for sheet in sheets:
        for name, *items in sheet.rows:
            about = "; ".join(i.url or i.text for i in items if i.cell is None and i.text != "X")
            for column, item in zip(sheet.header[1:], items):
                if item.cell is not None:
                    cell = item.cell
                    error = "" if cell.error is None or cell.n == 1 else cell.error
                    n = "" if cell.error is None else cell.n or ""
                    numbers = [cell.mean, error, n]
                    start = [sheet.kind, sheet.title, name.text, column]
                    writer.writerow([*start, *numbers, item.mark, about])
    return out.getvalue()


def render_html(sheets: list[Sheet]) -> str:
    """Sections with a table each; every text is escaped."""
    parts = []
    for sheet in sheets:
        title = html.escape(sheet.title)
        parts.append(f'<section class="sheet {sheet.kind}">')
        parts.append(f'<h3><span class="kind">{sheet.kind}</span> {title}</h3>')
        parts += [f'<p class="caption">{html.escape(sheet.caption)}</p>'] if sheet.caption else []
        parts += [html_table(sheet)] if sheet.rows else []
        if sheet.notes:
            notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes)
            parts.append(f'<ul class="notes">{notes}</ul>')
        parts.append("</section>")
    if any(sheet.has(BEST) for sheet in sheets):
        parts.append(f'<p class="legend">{LEGEND["html"]} {WITHIN}</p>')
    return "\n".join(parts) + "\n"


def html_table(sheet: Sheet) -> str:
    """One table in a box; columns of numbers are of class "number", with values to sort by."""
    numbers = [sheet.is_number(i) for i in range(len(sheet.header))]
    head = [
        f'<th scope="col"{_class("number" if is_number else "")}>{html.escape(name)}</th>'
        for name, is_number in zip(sheet.header, numbers)
    ]
    lines = [
        '<div class="wide">',
        f'<table class="sortable"><caption class="unseen">{html.escape(sheet.title)}</caption>',
    ]
    lines.append(f"<thead><tr>{''.join(head)}</tr></thead>\n<tbody>")
    for row in sheet.rows:
        cells = [f'<th scope="row">{_linked(row[0])}</th>']
        for item, name, is_number in zip(row[1:], sheet.header[1:], numbers[1:]):
            value = f' data-value="{item.cell.mean:.6g}"' if item.cell else ""
            classes = _class(f"{'number' if is_number else ''} {item.mark}".strip())
            cells.append(
                f'<td data-label="{html.escape(name)}"{classes}{value}>{_linked(item)}</td>'
            )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _linked(item: Item) -> str:
    text = html.escape(item.text)
    if item.mark:
        tag = "strong" if item.mark == BEST else "u"
        text = f"<{tag}>{text}</{tag}>"
    if item.url.startswith("https://"):
        return f'<a href="{html.escape(item.url)}">{text}</a>'
    return text


RENDERERS: dict[str, Callable[[list[Sheet]], str]] = {
    "text": render_text,
    "md": render_markdown,
    "csv": render_csv,
    "latex": render_latex,
    "html": render_html,
}
