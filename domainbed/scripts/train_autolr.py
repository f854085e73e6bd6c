"""Train one algorithm twice: find when its learning rate should fall, then use all samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from domainbed.engine.options import Options
from domainbed.lib.arguments import Parser
from domainbed.lib.machine import use_huge_pages
from domainbed.scripts import load_named_plugins, one_line, train


def build_parser() -> Parser:
    """The command line of DomainBed's train_autolr: that of train."""
    parser = train.build_parser()
    parser.prog, parser.description = "domainbed.scripts.train_autolr", __doc__
    parser.add_argument("--auto_lr", action="store_true", help="what this command does anyway")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if the run is done, 2 for a wrong input, 1 for a run that failed."""
    load_named_plugins(argv)
    options = Options.of(build_parser().parse_args(argv))
    use_huge_pages()
    options = replace(options, further={**options.further, "auto_lr": True})
    from domainbed.engine.execute import run_main  # torch, once the arguments are known to parse

    return run_main(options, "domainbed.engine.autolr:train")


if __name__ == "__main__":
    sys.exit(main())
