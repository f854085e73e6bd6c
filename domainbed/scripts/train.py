"""Train one algorithm on one dataset, holding out one or more domains."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from domainbed.engine.options import Options, add_train_arguments
from domainbed.lib.arguments import Parser
from domainbed.lib.machine import use_huge_pages
from domainbed.scripts import load_named_plugins, one_line


def build_parser() -> Parser:
    """The command line of DomainBed's train, and more."""
    parser = Parser(prog="domainbed.scripts.train", description=__doc__)
    add_train_arguments(parser)
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if the run is done, 2 for a wrong input, 1 for a run that failed."""
    load_named_plugins(argv)
    options = Options.of(build_parser().parse_args(argv))
    use_huge_pages()
    from domainbed.engine.execute import run_main  # torch, once the arguments are known to parse

    return run_main(options)


if __name__ == "__main__":
    sys.exit(main())
