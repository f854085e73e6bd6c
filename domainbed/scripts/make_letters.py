"""Make the foundation for digits: MNIST_CNN trained on printed letters, no digits among them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.scripts import one_line


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="domainbed.scripts.make_letters", description=__doc__)
    parser.add_argument("--output", default="letters.safetensors", help="the file to write")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Train, write the file, print the accuracy on fonts that were held out."""
    args = build_parser().parse_args(argv)
    from domainbed.networks import letters

    accuracy = letters.make(Path(args.output), args.steps, args.seed)
    print(f"{args.output}: accuracy {accuracy:.3f} on letters of fonts that were held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
