"""Print the tables of a sweep."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence

from domainbed import tables
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.lib.doubts import distinct_args
from domainbed.lib.query import Q
from domainbed.lib.reporting import Record, read_records
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError, nearest
from domainbed.scripts import lasting_objects, load_named_plugins, one_line


def format_mean(data: Iterable[float], latex: bool) -> tuple[float | None, float | None, str]:
    """Mean and standard error in percent of accuracies in [0, 1], and both as a cell's text."""
    cell = tables.summarise(data)
    text = tables.cell_text(cell, "$\\pm$" if latex else "+/-")
    return (None, None, text) if cell is None else (cell.mean, cell.error, text)


def print_table(
    table: list[list[str]],
    header_text: str,
    row_labels: list[str],
    col_labels: list[str],
    colwidth: int = 10,
    latex: bool = True,
) -> None:
    """Print rows of cells under a header."""
    rows = [list(col_labels), *([label, *row] for label, row in zip(row_labels, table))]
    if latex:
        print("\n" + tables.latex_table(rows, colwidth))
    else:
        print(tables.text_table(header_text, rows, colwidth), end="")


def build_parser() -> Parser:
    """The command line of DomainBed's collect_results, and more."""
    parser = Parser(prog="domainbed.scripts.collect_results", description=__doc__)
    add = parser.add_argument
    add(
        "--input_dir",
        type=arguments.path,
        required=True,
        nargs="+",
        metavar="DIR",
        help="folders of run folders",
    )
    add("--latex", action="store_true", help="the same as --format latex")
    add("--auto_lr", action="store_true", help="the same as --selection iid_autolr")
    add("--format", choices=tables.RENDERERS, default="text")
    add("--selection", nargs="+", metavar="METHOD", help=", ".join(SELECTIONS))
    add("--algorithms", nargs="+", metavar="ALGORITHM", help="show these only")
    add("--datasets", nargs="+", metavar="DATASET", help="show these only")
    add("--ddof", type=int, choices=(0, 1), default=0, help="1: sample standard deviation")
    add("--strict", action="store_true", help="end with code 3 if anything was left out or mixed")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


def keep(records: Iterable[Record], key: str, wanted: list[str] | None) -> Q:
    """Records whose args have a wanted value; `InputError` for a value that no record has."""
    records = Q(records)
    if wanted is None:
        return records
    there = records.select(f"args.{key}").unique()
    for value in wanted:
        if value not in there:
            raise InputError(f"No record has {key} {value!r}. {nearest(value, there)}")
    return records.filter(lambda record: record["args"][key] in wanted)


def notes(records: Iterable[Record], names: Iterable[str]) -> Iterator[str]:
    """Say why selection methods have no runs to select from, a line each."""
    runs = distinct_args(records)
    held_out = [[env for env in args["test_envs"] if env >= 0] for args in runs]
    if not any(held_out):
        yield "all runs train on every domain (--test_envs -1), so no table has a row"
    if n := sum(len(envs) > 2 for envs in held_out):
        yield f"{n} runs hold out more than two domains; no selection method uses those"
    n = sum(len(e) == 1 and args.get("holdout_fraction") == 0 for e, args in zip(held_out, runs))
    if n and set(names) & {"iid", "oracle"}:
        yield (
            f"{n} runs held nothing out (--holdout_fraction 0), so they have no validation "
            "accuracy to be selected by"
        )
    if "loo" in names and not any(len(envs) == 2 for envs in held_out):
        n_domains = min((number_of_domains(r) for r in records), default=0)
        if n_domains > 2:
            yield (
                "leave-one-domain-out cross-validation needs runs with two test domains, and "
                "there are none; sweep without --single_test_envs to have them"
            )
        else:
            yield (
                "leave-one-domain-out cross-validation needs runs with two test domains; of two "
                "domains that leaves none to train on"
            )


def number_of_domains(record: Record) -> int:
    """Count the domains that a record has accuracies of."""
    return next(i for i in itertools.count() if f"env{i}_in_acc" not in record)


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Print; 0 if all is well, 2 for a wrong input, 3 for problems under --strict."""
    load_named_plugins(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    with lasting_objects():
        return show(args)


def show(args: argparse.Namespace) -> int:
    """Print the tables that were asked for; return the exit code."""
    every, problems = read_records(*args.input_dir)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    if not every:
        raise InputError(
            f"--input_dir {' '.join(args.input_dir)} holds no records; expected run folders with "
            "results.jsonl, as `sweep launch --output_dir` makes them"
        )
    records = keep(keep(every, "dataset", args.datasets), "algorithm", args.algorithms)
    names = args.selection or (["iid_autolr"] if args.auto_lr else ["iid", "loo", "oracle"])
    built = [t for name in names for t in tables.build(records, SELECTIONS[name], args.ddof)]
    render = tables.RENDERERS["latex" if args.latex else args.format]
    print(render(built, len(records)), end="")
    for note in notes(records, names):
        print(f"note: {note}", file=sys.stderr)
    return 3 if problems and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
