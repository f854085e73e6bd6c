"""Draw the analyses of Model Ratatouille from finished runs: a table and a figure of each."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from domainbed.engine.options import MEMORY_HELP
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.runs import write_atomic
from domainbed.scripts import load_named_plugins, one_line

FIGURES = {
    "connectivity": ("connectivity", "table", "draw", "summary"),
    "diversity": ("diversity", "table", "draw", "summary"),
    "scaling": ("scaling", "table", "draw", "summary"),
    "plane": ("plane", "table", "draw", "summary"),
    "robust": ("plane", "robust_table", "draw_robust", "robust_summary"),
    "coefficients": ("coefficients", "table", "draw", "summary"),
}
"""Figure -> module of `ratatouille_algorithms.analysis`, and its functions."""


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="ratatouille_algorithms.scripts.analyze", description=__doc__)
    add = parser.add_argument
    add("--input_dir", type=arguments.path, required=True, help="the folder of run folders")
    add(
        "--output_dir",
        type=arguments.path,
        help="where tables and figures go; default: INPUT_DIR/analysis",
    )
    add(
        "--data_dir",
        type=arguments.path,
        help="where the datasets' folders are; default: where the runs found them",
    )
    add("--figures", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="FIGURE")
    add("--datasets", nargs="+", metavar="DATASET", help="show these only")
    add("--test_envs", nargs="+", type=arguments.domain, metavar="ENV", help="show these only")
    add("--trial_seeds", nargs="+", type=arguments.seed, metavar="TRIAL", help="show these only")
    add(
        "--n_pairs",
        type=arguments.at_least_one,
        default=10,
        help="of a target, whose mixtures are measured",
    )
    add("--n_subsets", type=arguments.at_least_one, default=5, help="of members, of each size")
    add("--memory", type=arguments.gibibytes, metavar="GIB", help=MEMORY_HELP)
    add("--grid", type=arguments.at_least_one, default=9, help="points along a side of the plane")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; columns in order of first appearance, what is no number left empty."""
    rows = list(rows)
    columns = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if _is_nan(value) else value for k, value in row.items()})
    return text.getvalue()


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _checked(args: argparse.Namespace) -> Any:
    from ratatouille_algorithms.analysis.members import Limits

    for name, least in (("n_pairs", 1), ("n_subsets", 1), ("grid", 2), ("memory", 0)):
        if (given := getattr(args, name)) is not None and given < least:
            raise InputError(f"--{name} was given {given}; expected >= {least}")
    return Limits(args.n_pairs, args.n_subsets, args.grid)


def analyze(figure: str, targets: Sequence[Any], limits: Any, output_dir: Path) -> str:
    """Write a figure's table and drawings; return what is in them in one line.

    Raises `MissingRuns` where no target has the runs for it.
    """
    import importlib

    from tqdm import tqdm

    from ratatouille_algorithms.analysis import figures

    module, *names = FIGURES[figure]
    home = importlib.import_module(f"ratatouille_algorithms.analysis.{module}")
    table, draw, summary = (getattr(home, name) for name in names)
    with tqdm(desc=figure, unit=" networks", leave=False, disable=None) as progress:
        for target in targets:
            target.on_network = progress.update
        rows = table(targets, limits)
    stem = output_dir / figure
    write_atomic(stem.with_suffix(".csv"), to_csv(rows))
    figures.write(draw, rows, stem)
    return f"{figure}: {summary(rows)} -> {stem}.csv, .png, .pdf"


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write what can be drawn; 0 if something could, 2 for a wrong input or nothing to draw."""
    load_named_plugins(argv)
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    limits = _checked(args)
    from ratatouille_algorithms.analysis import members

    output_dir = Path(args.output_dir or Path(args.input_dir) / "analysis")
    n_drawn = 0
    with tempfile.TemporaryDirectory() as scratch:
        chosen = (args.datasets, args.test_envs, args.trial_seeds)
        targets = members.find(
            args.input_dir, Path(scratch), args.data_dir, *chosen, memory=args.memory
        )
        make_folder(output_dir)
        for figure in dict.fromkeys(args.figures):
            try:
                print(analyze(figure, targets, limits, output_dir), flush=True)
                n_drawn += 1
            except members.MissingRuns as error:
                print(f"{figure}: left out: {error}", file=sys.stderr)
    if not n_drawn:
        raise InputError(f"--input_dir {args.input_dir!r} has not the runs for any of the figures")
    return 0


def make_folder(path: Path) -> None:
    """Make a folder; raises `InputError` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--output_dir {str(path)!r} cannot be made ({error.strerror}); give a folder that "
            "you may write to"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
