"""Averages of any finished runs: those of this package, and of ModelRatatouille, DiWA, DomainBed.

A member is a finished run that trained on the dataset, holding out the test domain: its weights
that are best by ID validation, and what its records say of it. Public code's are pickles, which
only the weights-only loader reads.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from domainbed import __version__, algorithms, datasets, hparams_registry, protocols
from domainbed.engine import rng
from domainbed.engine.evaluator import acc_key
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.lib import reporting, stored
from domainbed.lib import weights as weight_files
from domainbed.registry import InputError
from domainbed.runs import BEST, RunFolder
from ratatouille_algorithms import averages, means
from ratatouille_algorithms.inventory import is_average

FOREIGN = ("model_best.pkl", "network_best.pkl", "model.pkl")
"""Weights of public code, those best by ID validation first."""

_OF_PUBLIC_CODE = "ratatouille"
_OF_PUBLIC_DIGITS = "domainbed-2024"
"""Where domains are partitioned by the seed; digits are not augmented."""


@dataclass(frozen=True)
class Member:
    """A finished run: its folder, what its last record says, its weights and how good they are."""

    folder: RunFolder
    args: dict[str, Any]
    hparams: dict[str, Any]
    file: Path
    id_acc: float

    @property
    def is_ours(self) -> bool:
        """Whether this package trained it."""
        return self.file.name == BEST


def average(args: argparse.Namespace) -> list[str]:
    """Average the runs that `args` of the command name, and print how; return what was left out.

    Raises `InputError` where there is nothing to average, or members do not fit each other.
    """
    logging.getLogger("domainbed").setLevel(logging.WARNING)
    if args.weight_selection == "greedy" and args.trial_seed == -1:
        raise InputError(
            "--weight_selection greedy was given with --trial_seed -1, but what validates one "
            "trial is training data of the others; give one trial, or --weight_selection uniform"
        )
    datasets.find(args.dataset, args.data_dir)
    members, left_out = find(args)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    check(members, args)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        folder = RunFolder(args.output_dir or scratch / "run")
        run = prepare(members, args, folder)
        algorithm, paths = run.build(), []
        for i, member in enumerate(members):
            paths.append(member.file if member.is_ours else _converted(member, scratch / str(i)))
        if members[0].is_ours:
            headers = averages.check(algorithm, paths)
        else:  # nobody recorded their origin
            headers = means.check_layouts(paths)
        id_accs = [member.id_acc for member in members]
        select = averages.SELECTIONS[args.weight_selection]
        if args.weight_selection == "greedy" and not members[0].is_ours:
            select = partial(averages.select_greedily, is_pooled=True)  # as their code does
        is_kept = averages.combine(run, algorithm, paths, id_accs, select)
        names = [str(member.folder.path) for member in members]
        run.options = replace(
            run.options, algorithm=f"{run.options.algorithm}_{args.weight_selection}", hparams=None
        )
        accs_of_all = averages.finish(
            run,
            algorithm,
            headers,
            {"n_members": sum(is_kept)},
            members=averages.rows(names, id_accs, is_kept),
        )
        if args.output_dir:
            folder.finish()
    print(table(members, is_kept))
    is_of_one_trial = len({member.args["trial_seed"] for member in members}) == 1
    print(result(run, accs_of_all, sum(is_kept), is_of_one_trial))
    return left_out


def find(args: argparse.Namespace) -> tuple[list[Member], list[str]]:
    """The members in the folders of --input_dir, and what had to be left out, a line each."""
    members, left_out = [], []
    for root in dict.fromkeys(filter(None, args.input_dir.split(","))):
        if not Path(root).is_dir():
            raise InputError(f"--input_dir was given {root!r}, which is not a folder of runs")
        for path in sorted(p.parent for p in Path(root).glob("*/results.jsonl")):
            try:
                member = _member(RunFolder(path), args)
            except (InputError, OSError) as error:
                left_out.append(str(error))
                continue
            if member is not None:
                members.append(member)
    return members, left_out


def _member(folder: RunFolder, args: argparse.Namespace) -> Member | None:
    """What a run folder holds; None for a run that was not asked for. Raises if it is damaged."""
    lines = reporting.read_lines(folder / "results.jsonl")
    records = [record for record in map(reporting.parse_record, lines) if record is not None]
    if not records:
        raise InputError(f"{folder.path} has no whole record")
    theirs, hparams = records[-1]["args"], records[-1].get("hparams", {})
    if not _is_asked_for(theirs, args):
        return None
    if not folder.is_done:
        raise InputError(f"{folder.path} is not finished")
    if len(records) < len([line for line in lines if line.strip()]):
        raise InputError(f"{folder / 'results.jsonl'} has damaged lines")
    for name in (BEST, *FOREIGN):
        if (folder / name).is_file():
            break
    else:
        raise InputError(f"{folder.path} holds no weights, neither {BEST} nor {FOREIGN[0]}")
    file = folder / name
    if name == BEST:
        id_acc = stored.read_header(file).get("id_acc")
        if not isinstance(id_acc, float):
            raise InputError(f"{file} does not say its ID validation accuracy")
    else:
        weight_files.read(file)  # a damaged one is left out, and named
        id_acc = max(_id_acc(record, args.test_env) for record in records)
    return Member(folder, theirs, hparams, file, id_acc)


def _is_asked_for(theirs: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether a run trained all layers on the dataset in this trial, holding out the domain."""
    name = theirs["algorithm"]
    return (
        theirs["dataset"] == args.dataset
        and theirs["test_envs"] == [args.test_env]
        and args.trial_seed in (-1, theirs["trial_seed"])
        and theirs.get("what_is_trainable", "all") == "all"
        and args.algorithm in (None, name)
        and not is_average(name)
        and name.rpartition("_")[2] not in ("uniform", "greedy")
    )


def _id_acc(record: dict[str, Any], test_env: int) -> float:
    """Mean accuracy on the out splits of the training domains; 0 where there are none."""
    out = {acc_key(env, "out") for env in range(100) if env != test_env}
    found = [value for key, value in record.items() if key in out]
    return sum(found) / len(found) if found else 0.0


def check(members: Sequence[Member], args: argparse.Namespace) -> None:
    """Raise `InputError` unless there are members, all of one algorithm and of one code."""
    if not members:
        raise InputError(
            f"{args.input_dir} holds no finished run on {args.dataset} with test env "
            f"{args.test_env} and trial seed {args.trial_seed}; there is nothing to average"
        )
    names = dict.fromkeys(member.args["algorithm"] for member in members)
    if len(names) > 1:
        raise InputError(
            f"{args.input_dir} holds runs of {', '.join(names)}; say with --algorithm whose to "
            "average"
        )
    if len({member.is_ours for member in members}) > 1:
        raise InputError(f"{args.input_dir} mixes runs of this package and of public code")


def prepare(members: Sequence[Member], args: argparse.Namespace, folder: RunFolder) -> Run:
    """A run with the members' network and splits, in a folder to be written."""
    first = members[0]
    name, held_out = first.args["algorithm"], first.args.get("holdout_fraction")
    hparams = _known(first.hparams, name, args.dataset)
    hparams.update(hparams_registry.parse_overrides(args.hparams))
    options = Options(
        data_dir=args.data_dir,
        dataset=args.dataset,
        algorithm=name if first.is_ours else "ERM",
        test_envs=(args.test_env,),
        trial_seed=min(member.args["trial_seed"] for member in members),
        seed=first.args.get("seed") or 0 if args.seed is None else args.seed,
        steps=first.args.get("steps"),
        holdout_fraction=0.2 if held_out is None else held_out,
        hparams=json.dumps(hparams),
        protocol=protocols.set_name(args.protocol or _protocol(first)),
        foundation="random",  # all weights are those of the members
        output_dir=str(folder.path),
    )
    folder.create()
    if folder.is_done:
        raise InputError(f"--output_dir {folder.path} holds a finished run; give another folder")
    folder.begin({"args": options.recorded(), "code_version": __version__})
    with rng.preserved():
        return Run(options, {})


def _protocol(member: Member) -> str:
    """The protocol that a run followed: ours say so, others are known by their dataset."""
    if member.is_ours or member.args.get("protocol"):
        return member.args.get("protocol") or protocols.DEFAULT
    cls = datasets.find(member.args["dataset"], member.args.get("data_dir"))
    return _OF_PUBLIC_DIGITS if cls.KIND == "mnist" else _OF_PUBLIC_CODE


def _known(hparams: dict[str, Any], algorithm: str, dataset: str) -> dict[str, Any]:
    """Hyper-parameters that say what the network is, of those that this package knows."""
    if algorithm not in algorithms.REGISTRY:
        algorithm = "ERM"
    known = hparams_registry.default_hparams(algorithm, dataset)
    names = hparams_registry.names(algorithm, dataset)
    return {
        name: value
        for name, value in hparams.items()
        if name in names and type(value) is type(known.get(name, value))
    }


def _converted(member: Member, path: Path) -> Path:
    """A pickle's tensors as safetensors, under the name that its folder has.

    Counters of updates, which some public algorithms keep, are no weights and are left.
    """
    path.mkdir()
    state, _ = weight_files.read(member.file)
    state.pop("update_count", None)
    place = path / f"{member.folder.path.name}.safetensors"
    weight_files.save(place, state, {"id_acc": member.id_acc})
    return place


def table(members: Sequence[Member], is_kept: Sequence[bool]) -> str:
    """A line for each member."""
    rows = [("run", "algorithm", "trial", "hparams_seed", "ID validation", "kept")]
    for member, kept in zip(members, is_kept):
        a = member.args
        numbers = (str(a["trial_seed"]), str(a["hparams_seed"]), f"{member.id_acc:.6f}")
        rows.append((member.folder.path.name, a["algorithm"], *numbers, "yes" if kept else "no"))
    return _aligned(rows)


def result(run: Run, accs: dict[str, float], n_members: int, is_of_one_trial: bool) -> str:
    """A line for each domain; of several trials no out splits, on which some members trained."""
    rows: list[Sequence[str]] = [("domain", "in split", "out split", "whole domain")]
    for env, name in enumerate(run.env_names):
        cells = [accs.get(acc_key(env, split)) for split in ("in", "out")]
        if not is_of_one_trial and env not in run.test_envs:
            cells = [None, None]
        whole = run.whole_domain_acc(accs, env)
        label = f"{name} (test)" if env in run.test_envs else name
        rows.append((label, *("" if x is None else f"{x:.6f}" for x in (*cells, whole))))
    return f"\nThe average of {n_members}:\n{_aligned(rows)}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
