"""Save a picture of each domain: some images with their classes, and how training augments them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.datasets import doctor
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.scripts import one_line


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="domainbed.scripts.save_images", description=__doc__)
    parser.add_argument("--data_dir", type=arguments.path, required=True)
    parser.add_argument("--output_dir", type=arguments.path, required=True)
    parser.add_argument("--dataset", nargs="+", help="default: all that are in --data_dir")
    parser.add_argument("--n", type=arguments.at_least_one, default=8, help="images of each domain")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files and print their names."""
    args = build_parser().parse_args(argv)
    names = args.dataset or doctor.on_disk(args.data_dir)
    if not names or args.n < 1:
        raise InputError(
            f"There is nothing to show of {args.data_dir!r} with --n {args.n}; name a --dataset, "
            "or give a --data_dir that has some, and --n 1 or more"
        )
    import torch

    from domainbed.datasets import contact_sheets

    for name in names:
        torch.manual_seed(0)
        for file in contact_sheets.save(name, args.data_dir, Path(args.output_dir), args.n):
            print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
