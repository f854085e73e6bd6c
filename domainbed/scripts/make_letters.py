"""Make the foundation for digits: MNIST_CNN trained on printed letters, no digits among them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.scripts import one_line


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="domainbed.scripts.make_letters", description=__doc__)
    parser.add_argument(
        "--output", type=arguments.path, default="letters.safetensors", help="the file to write"
    )
    parser.add_argument("--steps", type=arguments.at_least_one, default=1500)
    parser.add_argument("--seed", type=arguments.seed, default=0)
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
