"""Write one self-contained HTML page about a sweep."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.runs import write_atomic
from domainbed.scripts import lasting_objects, load_named_plugins, one_line
from ratatouille_algorithms import report


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="ratatouille_algorithms.scripts.report", description=__doc__)
    add = parser.add_argument
    dirs = "folders of run folders"
    add("--input_dir", type=arguments.path, required=True, nargs="+", metavar="RUNS", help=dirs)
    add(
        "--output",
        type=arguments.path,
        required=True,
        metavar="FILE",
        help="the page to write, such as report.html",
    )
    add(
        "--analysis",
        type=arguments.path,
        metavar="DIR",
        help="where figures are (default: RUNS/analysis)",
    )
    add("--title", help="the page's title")
    add("--strict", action="store_true", help="end with code 3 if anything is doubtful")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; 0 if all is well, 2 for a wrong input, 3 for problems under --strict."""
    load_named_plugins(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    with lasting_objects():
        return write(args)


def write(args: argparse.Namespace) -> int:
    """Write the page; return the exit code."""
    folders, output = [Path(folder) for folder in dict.fromkeys(args.input_dir)], Path(args.output)
    analysis = [Path(args.analysis)] if args.analysis else [path / "analysis" for path in folders]
    if args.analysis and not analysis[0].is_dir():
        raise InputError(f"--analysis was given {args.analysis!r}, which is not a folder")
    sources = report.Sources(folders, analysis, output)
    names = " and ".join(folder.absolute().name for folder in folders)
    text = report.page(sources, args.title or f"Report of {names}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, text)
    except OSError as error:
        raise InputError(f"--output {args.output!r} cannot be written: {error.strerror}") from error
    for problem in sources.problems:
        print(f"warning: {problem}", file=sys.stderr)
    print(f"{output}: {len(sources.runs)} runs, {len(text.encode()) / 1e6:.1f} MB")
    return 3 if sources.problems and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
