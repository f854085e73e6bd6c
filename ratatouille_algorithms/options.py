"""Arguments that the plug-in adds to train and sweep, and what a sweep makes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

from domainbed import datasets
from domainbed.engine.options import OPTIONS, Option, Target
from domainbed.lib import arguments
from domainbed.lib.bounds import Within
from domainbed.registry import InputError
from ratatouille_algorithms import pool

logger = logging.getLogger(__name__)

AUX_HPARAMS = 4
"""Auxiliary runs of each auxiliary dataset, as in the paper."""

FUSING_RANGE = 4.0
"""How unlike the coefficients of an interpolation are, as in the paper."""


def plan_aux_datasets(given: list[str] | None, target: Target) -> list[str] | None:
    """The auxiliary datasets of a target: those given, or all others of its kind that are there.

    The target itself is never one of them; a pool needs none. Raises `InputError` when none is
    left.
    """
    data_dir = target.args.get("data_dir")
    if pool.is_pool(target.args.get("aux_dir")):
        _refuse_beside_a_pool("aux_datasets", given)
        return None
    if given is None:
        kind = datasets.find(target.dataset, data_dir).KIND
        own = [name for name in target.datasets if datasets.find(name, data_dir).KIND == kind]
        given = [*datasets.available(kind, data_dir), *own]
    else:
        for name in given:
            datasets.check(name, data_dir)
    left = [name for name in dict.fromkeys(given) if name != target.dataset]
    if not left:
        raise InputError(
            f"There is no auxiliary dataset for {target.dataset}: none of its kind is in "
            f"{data_dir!r}; give --aux_datasets with at least one other dataset"
        )
    return left


def plan_aux_hparams(given: int | None, target: Target) -> int | None:
    """The number of auxiliary runs of each auxiliary dataset."""
    if pool.is_pool(target.args.get("aux_dir")):
        _refuse_beside_a_pool("aux_hparams", given)
        return None
    if given is not None and given < 1:
        raise InputError(f"--aux_hparams was given {given}; expected at least 1")
    return AUX_HPARAMS if given is None else given


def _refuse_beside_a_pool(option: str, given: Any) -> None:
    if given is not None:
        raise InputError(
            f"--{option} was given {given}, but --aux_dir is a pool, whose ingredients are "
            "trained already; choose among them with --ingredients, or leave it out"
        )


def plan_ingredients(given: list[str] | None, target: Target) -> list[str] | None:
    """The ingredients of a pool that runs on a target start from, pinned by content.

    They are those given, or all, but for those that saw the target. None without a pool.
    """
    aux_dir = target.args.get("aux_dir")
    if aux_dir is None or not pool.is_pool(aux_dir):
        if given is not None:
            raise InputError(
                f"--ingredients was given {' '.join(given)}, but --aux_dir is {aux_dir!r}; "
                "expected the folder of a pool"
            )
        return None
    allow_unknown = bool(target.args.get("allow_unknown_provenance"))
    every = pool.get(aux_dir, [name.partition("@")[0] for name in given or ()])
    left = pool.usable(every, target.dataset, None, allow_unknown)
    for one in every:
        if one not in left:
            reason = pool.why_not(one, target.dataset, None, allow_unknown)
            _say_once(f"{one.folder} is left out of runs on {target.dataset}: {reason}")
    return [one.label for one in left]


@cache
def _say_once(text: str) -> None:
    logger.warning(text)


def plan_flag(given: bool | None, _: Target) -> bool | None:
    """True, or nothing at all."""
    return given or None


def plan_steps_lp(given: int | None, _: Target) -> int | None:
    """The number of updates of a linear probe."""
    if given is not None and given < 1:
        raise InputError(f"--steps_lp was given {given}; expected at least 1")
    return given


def plan_fusing_range(given: float | None, _: Target) -> float:
    """How unlike the coefficients of Fusing are."""
    return FUSING_RANGE if given is None else given


def plan_wise_alpha(given: float | None, _: Target) -> float | None:
    """The share of the fine-tuned weights in WiSE."""
    if given is not None and not 0 <= given <= 1:
        raise InputError(f"--wise_alpha was given {given}; expected 0 <= x <= 1")
    return given


def _option(name: str, text: str, plan: Callable | None = None, **parser: Any) -> None:
    given = {"help": text, **parser}
    OPTIONS[name] = Option(given, plan) if plan else Option(given)


def register() -> None:
    """Add them."""
    _option(
        "aux_datasets",
        "whose fine-tuned weights are recycled; default: the others of the same kind",
        plan_aux_datasets,
        nargs="+",
        metavar="DATASET",
    )
    _option(
        "aux_hparams",
        f"runs of each of them (default {AUX_HPARAMS})",
        plan_aux_hparams,
        type=arguments.some_runs,
        metavar="N",
    )
    _option(
        "aux_dir",
        "where auxiliary runs are, shared between sweeps; or a pool",
        type=arguments.path,
        metavar="DIR",
    )
    _option(
        "ingredients",
        "of the pool that is --aux_dir: those to use (default: all that never saw the target)",
        plan_ingredients,
        nargs="+",
        metavar="NAME",
    )
    _option(
        "allow_unknown_provenance",
        "use ingredients of a pool whose card does not say what they have seen",
        plan_flag,
        action="store_true",
        default=None,
    )
    _option("output_dir_lp", "where linear probes are", type=arguments.path, metavar="DIR")
    _option(
        "steps_lp",
        "updates of linear probes (default: as other runs)",
        plan_steps_lp,
        type=arguments.at_least_one,
        metavar="N",
    )
    _option(
        "probe_per_trial",
        "probe on each trial's own split instead of trial 0's for all",
        plan_flag,
        action="store_true",
        default=None,
    )
    _option(
        "plain_probe",
        "probe on images without augmentation, whose features are computed once",
        plan_flag,
        action="store_true",
        default=None,
    )
    _option(
        "fusing_range",
        f"of Fusing: coefficients are exp(x uniform(0, 1)), normalised (default {FUSING_RANGE:g})",
        plan_fusing_range,
        type=arguments.number(Within(-700, 700)),
        metavar="X",
    )
    _option(
        "wise_alpha",
        "of WiSE: the share of fine-tuned weights; default: the best by ID validation",
        plan_wise_alpha,
        type=arguments.share,
        metavar="X",
    )
    _option(
        "bn",
        "BatchNorm statistics of averages: those of the members averaged (default), or estimated "
        "anew on training data",
        choices=("average", "reestimate"),
    )
