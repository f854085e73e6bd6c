"""Keep a pool of fine-tuned weights to recycle: list, add, verify, remove, export, pull, push."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from domainbed.lib import arguments
from domainbed.lib.arguments import Parser
from domainbed.registry import InputError
from domainbed.scripts import ask, load_named_plugins, one_line
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.pool import Ingredient, lock
from ratatouille_algorithms.pool import pool as folders

PROG = "ratatouille_algorithms.scripts.pool"

FAR = 1.0
"""As far from the foundation as that is from zero: hardly a fine-tuning of it."""

_FIELDS: dict[str, dict[str, Any]] = {
    "name": {"help": "what to call it; default: DATASET_HPARAMSSEED of a run"},
    "task": {"help": "what it was trained to do, in words"},
    "datasets_seen": {"nargs": "+", "metavar": "DATASET", "help": "all that it was trained on"},
    "foundation": {
        "type": arguments.path,
        "metavar": "NAME|FILE|random",
        "help": "what it descends from; default: the backbone's own weights",
    },
    "backbone": {"help": "the featurizer, such as resnet50 or one of timm's models"},
    "input_shape": {
        "nargs": "+",
        "type": arguments.at_least_one,
        "metavar": "N",
        "help": "default: 3 224 224",
    },
    "licence": {"help": "under which it may be used, such as MIT"},
    "how": {"help": "the command or recipe that made it"},
    "steps": {"type": arguments.count, "help": "updates"},
    "id_acc": {
        "type": arguments.share,
        "help": "accuracy in [0, 1] on validation data of its own datasets",
    },
}


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="ratatouille_algorithms.scripts.pool", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> Callable[..., Any]:
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument(
            "--pool", type=arguments.path, required=True, metavar="DIR", help="the pool's folder"
        )
        one.add_argument(
            "--plugins", nargs="+", default=[], metavar="MODULE", help="that are not installed"
        )
        return one.add_argument

    add = command("list", "Show what is in a pool, and what of it a target may use.")
    add("--target", metavar="DATASET", help="say of each whether runs on this dataset may use it")
    add("--allow_unknown_provenance", action="store_true", help="use weights of unknown past, too")
    add = command("add", "Add run folders, ingredients, or weights with what is known of them.")
    add(
        "sources",
        type=arguments.path,
        nargs="+",
        metavar="SOURCE",
        help="a run folder, a folder of them, or a file",
    )
    for field, options in _FIELDS.items():
        add(f"--{field}", **options)
    add = command("verify", "Check ingredients, and measure how far they are from the foundation.")
    add("names", nargs="*", metavar="NAME", help="default: all")
    add(
        "--foundation",
        type=arguments.path,
        metavar="NAME|FILE",
        help="where it is a file, or not to be had by name",
    )
    add("--dataset", help="measure accuracy along the way from the foundation, on this dataset")
    add("--data_dir", type=arguments.path, help="where its folder is")
    add = command("remove", "Delete ingredients.")
    add("names", nargs="+", metavar="NAME")
    add("--yes", action="store_true", help="do not ask")
    add = command("export", "Copy ingredients to an archive or a folder, a pool in its turn.")
    add("names", nargs="*", metavar="NAME", help="default: all")
    add("--output", type=arguments.path, required=True, metavar="FILE.zip|FILE.tar|DIR")
    _add_hub(command)
    return parser


def _add_hub(command: Callable[[str, str], Callable[..., Any]]) -> None:
    add = command("pull", "Fetch ingredients from the hub, as pool.lock pins them if it does.")
    add("repo", nargs="?", metavar="OWNER/NAME", help="default: all that pool.lock pins")
    add("--names", nargs="+", default=[], metavar="NAME", help="default: all")
    add("--revision", help="a branch, tag or commit; default: the pinned commit, or main")
    add("--update", action="store_true", help="move what is pinned to --revision, or to main")
    add("--max_gib", type=arguments.gibibytes, default=4.0, help="the most to download (default 4)")
    add = command("push", "Upload ingredients to the hub, where others can pull them.")
    add("repo", metavar="OWNER/NAME")
    add("--names", nargs="+", default=[], metavar="NAME", help="default: all")
    add("--private", action="store_true", help="make a new repository private")
    add("--message", type=str, default="", help="of the commit")


def _list(args: argparse.Namespace) -> int:
    origins = {
        name: f"{repo}@{pin.revision[:7]}"
        for repo, pin in lock.read(args.pool).items()
        for name in pin.names
    }
    rows, refused = [], []
    for name, one in pools.entries(args.pool):
        if isinstance(one, InputError):
            refused.append(f"refused: {one}")
            continue
        row = {**_row(one), "from": origins.get(name, "")}
        if args.target:
            reason = pools.why_not(one, args.target, None, args.allow_unknown_provenance)
            row[f"for {args.target}"] = f"no: {reason}" if reason else "yes"
        rows.append(row)
    for line in _table(rows):
        print(line)
    for line in refused:
        print(line, file=sys.stderr)
    if not rows and not refused:
        print(f"{args.pool} holds no ingredient")
    return 1 if refused else 0


def _row(one: Ingredient) -> dict[str, str]:
    card = one.card
    return {
        "name": one.name,
        "task": card.task,
        "seen": "unknown" if card.datasets_seen is None else ", ".join(card.datasets_seen),
        "foundation": card.foundation.name or card.foundation.sha256[:12],
        "backbone": card.backbone,
        "steps": "" if card.steps is None else f"{card.steps:,}",
        "ID acc": "" if card.id_acc is None else f"{100 * card.id_acc:.1f}",
        "licence": card.licence or "unknown",
        "MB": f"{card.size / 1e6:.1f}",
    }


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Rows under their columns; columns in which nothing stands are left out, long cells cut."""
    columns = [key for key in (rows[0] if rows else ()) if any(row[key] for row in rows)]
    most = 60
    cells = [[row[key] for key in columns] for row in rows]
    cells = [[c if len(c) <= most else f"{c[: most - 3]}..." for c in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)) for row in [columns, *cells]]
    return [line.rstrip() for line in lines] if rows else []


def _add(args: argparse.Namespace) -> int:
    from ratatouille_algorithms.pool import sources

    given = {key: getattr(args, key) for key in _FIELDS if getattr(args, key) is not None}
    found = [path for source in args.sources for path in sources.find(source)]
    if len(found) > 1 and "name" in given:
        raise InputError(f"--name was given for {len(found)} ingredients; add them one by one")
    for path in found:
        one = sources.add(args.pool, path, given)
        print(f"added {_said(one)}", flush=True)
    return 0


def _said(one: Ingredient) -> str:
    row = _row(one)
    return (
        f"{one.name}: {row['backbone']} from {row['foundation']}, has seen {row['seen']}, "
        f"licence {row['licence']}, {row['MB']} MB"
    )


def _verify(args: argparse.Namespace) -> int:
    """Every ingredient on its own: those refused are told, and the rest is measured."""
    names = args.names or [name for name, _ in pools.entries(args.pool)]
    sound, n_refused = [], 0
    for name in names:
        try:
            one = pools.get(args.pool, [name])[0]
            print(f"{name}: {_checked(one, args.foundation)}", flush=True)
            sound.append(one)
        except InputError as error:
            n_refused += 1
            print(f"refused: {error}", file=sys.stderr, flush=True)
    if args.dataset and sound:
        _connect(sound, args)
    print(f"{len(sound)} sound, {n_refused} refused")
    return 1 if n_refused else 0


def _checked(one: Ingredient, foundation: str | None) -> str:
    from ratatouille_algorithms.pool import verify
    from ratatouille_algorithms.pool.network import OtherFoundation

    verify.check(one)
    try:
        far = verify.distance(one, foundation)
    except OtherFoundation:
        raise
    except InputError as error:
        return f"sound; not compared with its foundation: {error}"
    text = f"sound; relative distance to {one.card.foundation.name} {far.overall:.3f}"
    if far.where:
        text += f", at most {far.most:.3f} in {far.where}"
    if far.overall >= FAR:
        text += "; doubtful: no fine-tuning goes that far"
    return text


def _connect(sound: Sequence[Ingredient], args: argparse.Namespace) -> None:
    from ratatouille_algorithms.pool import verify

    print(f"ID accuracy (%) on {args.dataset} under a head probed on the foundation, from the")
    print("foundation (l = 0) to the ingredient (1), and the worst gap to the straight line:")
    width = max(len(one.name) for one in sound)
    print(f"{'l'.ljust(width)} " + "".join(f"{lam:6.1f}" for lam in verify.POINTS))
    for one, curve in verify.curves(sound, args.dataset, args.data_dir, args.foundation):
        gap, lam = curve.worst
        side = "within" if gap >= -curve.error else "beyond"
        print(
            f"{one.name.ljust(width)} "
            + "".join(f"{100 * acc:6.1f}" for acc in curve.accs)
            + f"  gap {100 * gap:.1f} at {lam:g}, {side} error "
            + f"({100 * curve.error:.1f}, of {curve.n_samples} samples)",
            flush=True,
        )


def _remove(args: argparse.Namespace) -> int:
    names = ", ".join(dict.fromkeys(args.names))
    if not args.yes and not ask(f"Delete {names} from {args.pool}?", "--yes"):
        print("Nothing is deleted.")
        return 0
    folders.remove(args.pool, args.names)
    print(f"deleted {names}")
    return 0


def _export(args: argparse.Namespace) -> int:
    chosen = _some(pools.get(args.pool, args.names), args.pool)
    folders.check_room(sum(one.card.size for one in chosen), Path(args.pool))
    folders.export(chosen, Path(args.output))
    print(f"{args.output}: {', '.join(one.label for one in chosen)}")
    return 0


def _some(chosen: list[Ingredient], pool: str) -> list[Ingredient]:
    if not chosen:
        raise InputError(f"{pool} holds no ingredient")
    return chosen


def _pull(args: argparse.Namespace) -> int:
    from ratatouille_algorithms.pool import hub

    if args.repo:
        asked = {args.repo: args.names}
    elif args.revision or args.names or args.update:
        raise InputError("--revision, --names and --update are of one repository; name it")
    else:
        asked = {repo: pin.names for repo, pin in lock.read(args.pool).items()}
        if not asked:
            raise InputError(f"{args.pool} has no {lock.LOCK}; say which repository to pull from")
    for repo, names in asked.items():
        done = hub.pull(args.pool, repo, args.revision, names, args.update, args.max_gib)
        print(f"{repo} at {done.commit}")
        for one in done.new:
            print(f"  pulled {_said(one)}")
        for name in done.kept:
            print(f"  {name} is here as pinned")
    return 0


def _push(args: argparse.Namespace) -> int:
    from ratatouille_algorithms.pool import hub

    chosen = _some(pools.get(args.pool, args.names), args.pool)
    commit = hub.push(chosen, args.repo, args.private, args.message)
    print(f"{args.repo} at {commit}: {', '.join(one.label for one in chosen)}")
    print(f"python -m {PROG} pull {args.repo} --revision {commit} --pool DIR gets them")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "add": _add,
    "verify": _verify,
    "remove": _remove,
    "export": _export,
    "pull": _pull,
    "push": _push,
}


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Do one command; 0 if all is well, 1 if an ingredient is refused, 2 for a wrong input."""
    load_named_plugins(argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    if not sys.stderr.isatty():  # what is piped or logged is spared the bars of the hub's client
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return COMMANDS[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
