"""Average the weights of finished runs, ours or public code's, and measure the average."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from domainbed import protocols
from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.scripts import load_named_plugins, one_line


def build_parser() -> Parser:
    """The command line of ModelRatatouille's inference, and more."""
    parser = Parser(prog="domainbed.scripts.inference", description=__doc__)
    add = parser.add_argument
    add(
        "--data_dir",
        type=arguments.path,
        help="where the datasets' folders are; embedded datasets need none",
    )
    add(
        "--input_dir",
        type=arguments.paths,
        required=True,
        metavar="DIR[,DIR]",
        help="folders of run folders",
    )
    add("--dataset", required=True)
    add("--test_env", type=arguments.domain, required=True)
    add("--weight_selection", choices=("uniform", "greedy"), default="uniform")
    add(
        "--trial_seed",
        type=arguments.trial_seed_or_all,
        default=0,
        help="-1 averages the runs of all trials",
    )
    add("--algorithm", help="whose runs to average, where several algorithms were trained")
    add("--hparams", metavar="JSON", help="values that override those of the runs")
    add(
        "--seed",
        type=arguments.seed,
        help="that public code partitions MNIST by; default: the first run's",
    )
    add("--protocol", choices=list(protocols.PROTOCOLS), help="default: that of the runs")
    add("--output_dir", type=arguments.path, help="write the average there, as a run folder")
    add("--strict", action="store_true", help="end with code 3 if a run had to be left out")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 if all is well, 2 for a wrong input, 3 for a run that was left out under --strict."""
    load_named_plugins(argv)
    args = build_parser().parse_args(argv)
    from ratatouille_algorithms import inference  # torch, once the arguments are known to parse

    return 3 if inference.average(args) and args.strict else 0


if __name__ == "__main__":
    sys.exit(main())
