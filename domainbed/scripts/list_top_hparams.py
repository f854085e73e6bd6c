"""List the runs of one algorithm on one test domain, best first, for each selection method."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.lib.doubts import is_full_data
from domainbed.lib.query import Q
from domainbed.lib.reporting import get_grouped_records, read_records
from domainbed.model_selection import SELECTIONS
from domainbed.registry import InputError, nearest
from domainbed.scripts import load_named_plugins, one_line


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="domainbed.scripts.list_top_hparams", description=__doc__)
    add = parser.add_argument
    dirs = "folders of run folders"
    add("--input_dir", type=arguments.path, required=True, nargs="+", metavar="DIR", help=dirs)
    add("--dataset", required=True)
    add("--algorithm", required=True)
    add("--test_env", type=arguments.domain, required=True)
    add("--selection", nargs="+", metavar="METHOD", help=", ".join(SELECTIONS))
    add("--strict", action="store_true", help="end with code 3 if anything is doubtful")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Print; 0 if there is something to list, 2 otherwise, 3 for problems under --strict."""
    load_named_plugins(argv)
    args = build_parser().parse_args(argv)
    records, problems = read_records(*args.input_dir)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    show(get_grouped_records(Q(records)), args)
    return 3 if problems and args.strict else 0


def show(groups: Q, args: argparse.Namespace) -> None:
    """Print the runs that were asked for, of equal ones the highest hparams_seed first."""
    folders = " ".join(args.input_dir)
    if not len(groups):
        raise InputError(f"--input_dir {folders!r} holds no run with a test domain")
    for key, wanted in (
        ("dataset", args.dataset),
        ("algorithm", args.algorithm),
        ("test_env", args.test_env),
    ):
        there = groups.select(key).unique()
        groups = groups.filter_equals(key, wanted)
        if not len(groups):
            near = nearest(wanted, map(str, there))
            raise InputError(f"No run in {folders!r} has {key} {wanted!r}. {near}")
    is_auto_lr = any(is_full_data(record) for group in groups for record in group["records"])
    every = ["iid", "loo", "oracle", *(["iid_autolr"] if is_auto_lr else [])]
    for name in args.selection or every:
        method = SELECTIONS[name]
        print(f"Model selection: {method.name}")
        for group in groups.sorted("trial_seed"):
            for acc, records in method.hparams_accs(group["records"]):
                run_args = records[0]["args"]
                trial_seed, hparams_seed = run_args["trial_seed"], run_args["hparams_seed"]
                print(f"  trial_seed {trial_seed}, hparams_seed {hparams_seed}")
                print(f"    val_acc {acc['val_acc']:.4f}, test_acc {acc['test_acc']:.4f}")
                for key, value in sorted(records[0].get("hparams", {}).items()):
                    print(f"    {key}: {value}")
                for folder in records.select(lambda r: r["args"].get("output_dir")).unique():
                    print(f"    output_dir: {folder}")
        print()


if __name__ == "__main__":
    sys.exit(main())
