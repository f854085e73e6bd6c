"""Rank the algorithms of one sweep or several, beside published results."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError
from domainbed.scripts import lasting_objects, load_named_plugins, one_line
from domainbed.scripts.collect_results import keep
from ratatouille_algorithms import leaderboard
from ratatouille_algorithms.sheets import RENDERERS

_NOT_SHOWN = (
    f"note: published results are of {', '.join(leaderboard.PUBLISHED_DATASETS)}, of which none "
    "was run; --published shows them all the same"
)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="ratatouille_algorithms.scripts.leaderboard", description=__doc__)
    add = parser.add_argument
    add(
        "--input_dir",
        type=arguments.path,
        nargs="+",
        required=True,
        metavar="RUNS",
        help="folders of run folders",
    )
    add("--format", choices=RENDERERS, default="text")
    add("--selection", nargs="+", metavar="METHOD", help=", ".join(SELECTIONS))
    add("--score", choices=leaderboard.SCORES, default="in", help="in split, or whole test domain")
    add("--algorithms", nargs="+", metavar="ALGORITHM", help="show these only")
    add("--datasets", nargs="+", metavar="DATASET", help="show these only")
    add(
        "--compare",
        type=arguments.path,
        metavar="OTHER_RUNS",
        help="show this sweep beside the others",
    )
    add("--published", action="store_true", default=None, help="show published results always")
    add("--no_published", dest="published", action="store_false", help="do not show them")
    add("--ddof", type=int, choices=(0, 1), default=0, help="1: sample standard deviation")
    add("--strict", action="store_true", help="end with code 3 if anything was left out or mixed")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Print; 0 if all is well, 2 for a wrong input, 3 for problems under --strict."""
    load_named_plugins(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    with lasting_objects():
        return show(args)


def show(args: argparse.Namespace) -> int:
    """Print what was asked for; return the exit code."""
    records, problems = leaderboard.read(args.input_dir)
    records = keep(keep(records, "dataset", args.datasets), "algorithm", args.algorithms)
    names = args.selection or ["iid", "loo", "oracle"]
    if args.compare is None:
        is_shown = args.published
        if is_shown is None and not (is_shown := leaderboard.shares_published(records)):
            print(_NOT_SHOWN, file=sys.stderr)
        sheets = leaderboard.build(records, names, args.score, args.ddof, is_shown)
    else:
        others, more = leaderboard.read([args.compare])
        problems += more
        wanted = {"dataset": args.datasets, "algorithm": args.algorithms}
        others = others.filter(
            lambda r: all(some is None or r["args"][key] in some for key, some in wanted.items())
        )
        both = " + ".join(args.input_dir), args.compare
        sheets = leaderboard.compared(records, others, both, names, args.score, args.ddof)
        if not sheets:
            raise InputError(f"Neither {both[0]} nor {both[1]} has a result by {', '.join(names)}")
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(RENDERERS[args.format](sheets), end="")
    return 3 if problems and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
