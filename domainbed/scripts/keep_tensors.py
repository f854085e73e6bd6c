"""Keep the tensors of a pickle as safetensors; nothing else of it is read, and nothing run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.scripts import one_line


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="domainbed.scripts.keep_tensors", description=__doc__)
    add = parser.add_argument
    add(
        "file",
        type=arguments.path,
        metavar="FILE",
        help="a pickle as torch.save writes it, or safetensors",
    )
    add(
        "--output", type=arguments.path, required=True, metavar="NEW", help="a new safetensors file"
    )
    add("--only", metavar="NAME", help="only what is under this name, such as teacher.backbone")
    return parser


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write the tensors; 0 if all is well, 2 for a wrong input."""
    args = build_parser().parse_args(argv)
    output = Path(args.output)
    if output.exists():
        raise InputError(f"{output} is there already; give another --output, or remove it")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent} to write --output {output} to")
    from domainbed.lib import weights  # torch, once the arguments are known to parse
    from domainbed.lib.kinds import shown

    contents = weights.Contents(args.file, keeps_all=True)
    state = {} if args.only else contents.load(contents.main)
    for entry in contents.entries if args.only else ():
        names = {name: ".".join([*entry, name]) for name in contents.entries[entry]}
        if any(whole.startswith(f"{args.only}.") for whole in names.values()):
            kept = {names[name]: tensor for name, tensor in contents.load(entry).items()}
            start = f"{args.only}."
            state |= {n[len(start) :]: t for n, t in kept.items() if n.startswith(start)}
    if not state:
        places = [shown(".".join(entry)) for entry in contents.entries][:5]
        raise InputError(f"{args.file} holds no tensors under {args.only!r}; it has {places}")
    weights.save(output, state, {})
    print(f"{output}: {len(state)} tensors of {args.file}")
    if contents.foreign:
        left = ", ".join(shown(name) for name in sorted(contents.foreign)[:5])
        print(f"left out, without running it: {left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
