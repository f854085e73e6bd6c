"""Average weight files, or the best weights of finished runs, into one file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.runs import BEST, RunFolder
from domainbed.scripts import one_line
from ratatouille_algorithms import means


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="ratatouille_algorithms.scripts.average", description=__doc__)
    add = parser.add_argument
    add(
        "members",
        type=arguments.path,
        nargs="+",
        metavar="MEMBER",
        help="a safetensors file or a run folder",
    )
    add(
        "--output",
        type=arguments.path,
        required=True,
        metavar="FILE",
        help="a new safetensors file for the mean",
    )
    return parser


def weights_of(member: str) -> Path:
    """A member's weight file: itself, or that of a finished run."""
    path = Path(member)
    if not path.is_dir():
        return path
    if not RunFolder(path).is_done:
        raise InputError(f"{path} is no finished run; give weight files or finished run folders")
    return path / BEST


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write the mean; 0 if all is well, 2 for a wrong input."""
    args = build_parser().parse_args(argv)
    output, paths = Path(args.output), [weights_of(member) for member in args.members]
    if output.exists():
        raise InputError(f"{output} is there already; give another --output, or remove it")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent} to write --output {output} to")
    origin = means.common_origin(means.check_members(paths))
    members = [{"run": str(member)} for member in args.members]
    means.write_uniform(paths, output, {"provenance": {**origin, "members": members}})
    print(f"{output}: the mean of {len(paths)} members, {output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
