"""Fetch datasets into --data_dir, or check those that are there.

Downloads go on where they were interrupted. With --archive, zip or tar files on disk take the place
of the download.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.datasets import archives, doctor
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.scripts import one_line


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="domainbed.scripts.download", description=__doc__)
    parser.add_argument("--data_dir", type=arguments.path, required=True)
    parser.add_argument("--dataset", nargs="+", help="; ".join(archives.RECIPES))
    parser.add_argument("--archive", nargs="+", type=arguments.path, help="files to take instead")
    parser.add_argument(
        "--check",
        action="store_true",
        help="fetch nothing; count and decode the images of --dataset, or of all that are there",
    )
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Fetch or check; 0 if all is well, 1 if a dataset is not as it should be, 2 otherwise."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.check:
        if args.archive:
            raise InputError("--check and --archive were both given; give one of them")
        return doctor.run(args.data_dir, args.dataset)
    if not args.dataset:
        raise InputError(f"Say which --dataset to fetch: {', '.join(archives.RECIPES)}")
    if args.archive and len(args.dataset) > 1:
        raise InputError(f"--archive is for one --dataset, but {len(args.dataset)} were given")
    for name in args.dataset:
        if args.archive:
            archives.install(name, Path(args.data_dir), [Path(a) for a in args.archive])
        else:
            archives.download(name, Path(args.data_dir))
    return doctor.run(args.data_dir, args.dataset, decode=False)


if __name__ == "__main__":
    sys.exit(main())
