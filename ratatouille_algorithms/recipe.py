"""The recipe as a graph of jobs: what each strategy needs finished before it starts.

    foundation -> probe on each auxiliary dataset -> auxiliary runs on all its domains
    foundation -> probe on the target, shared by all runs of a (dataset, test envs)
    probe -> FineTuning runs -> DiWA_uniform, DiWA_greedy, Ensemble_FineTuning
                                (of all trials) DiWA_dagger
    one FineTuning run -> MovingAverage, SWAD
    probe + one FineTuning run -> WiSE
    probe + auxiliary run -> InterTraining runs -> Ratatouille_uniform, Ratatouille_greedy,
                                Ensemble_InterTraining, (of all trials) Ratatouille_dagger
    probe + an auxiliary run of each dataset -> Fusing

Run k of InterTraining starts from ingredient k mod (number of auxiliary datasets + 1), of which 0
is the foundation itself, and within auxiliary dataset i from its run k mod (its number of runs).
Where --aux_dir is a pool, its ingredients take the place of auxiliary runs, and nobody trains them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from domainbed import algorithms, datasets
from domainbed.engine.options import OPTIONS, Option, Target
from domainbed.hparams_registry import HParam, choice
from domainbed.jobs import Job, Need
from domainbed.registry import InputError
from ratatouille_algorithms import pool

logger = logging.getLogger(__name__)

T = TypeVar("T")

AUX_HPARAMS = 4
"""Auxiliary runs of each auxiliary dataset, as in the paper."""

POOLED = ("ingredients", "allow_unknown_provenance")

FUSING_RANGE = 4.0
"""How unlike the coefficients of an interpolation are, as in the paper."""


def fine_tuning_space(dataset: str) -> list[HParam]:
    """Mild hyper-parameters around DomainBed's defaults (Rame et al. 2022, arXiv 2205.09739).

    Datasets of small images, which the papers do not treat, keep the ratios 1 : 3 : 5 below their
    own default rate, and their batch size.
    """
    mild = [
        HParam("resnet50_augmix", False),
        HParam("freeze_bn", True),
        choice("resnet_dropout", 0.0, [0.0, 0.1, 0.5]),
        choice("weight_decay", 0.0, [1e-4, 1e-6]),
    ]
    if datasets.is_small(dataset):
        return [*mild, choice("lr", 1e-3, [2e-4, 6e-4, 1e-3])]
    return [*mild, choice("lr", 5e-5, [1e-5, 3e-5, 5e-5]), HParam("batch_size", 32)]


def followed_space(dataset: str) -> list[HParam]:
    """Those of fine-tuning, and of the averages along a run (arXiv 2110.10832, 2102.08604)."""
    return [
        *fine_tuning_space(dataset),
        HParam("ma_start", 100),
        HParam("swad_n_converge", 3),
        HParam("swad_n_tolerance", 6),
        HParam("swad_tolerance", 0.2 if dataset == "VLCS" else 0.3),
    ]


def inter_training_space(dataset: str) -> list[HParam]:
    """Those of fine-tuning, and how many first updates train only the head."""
    return [*fine_tuning_space(dataset), HParam("lp_steps", 200)]


def probe(job: Job) -> Job:
    """The linear probe whose head a run starts from: default hparams, trial 0 unless asked."""
    return job.derive(
        root=job.train_args.get("output_dir_lp") or f"{job.root}/lp",
        algorithm="FineTuning",
        hparams_seed=0,
        trial_seed=job.train_args["trial_seed"] if job.train_args.get("probe_per_trial") else 0,
        what_is_trainable="classifier",
        steps=job.train_args.get("steps_lp", job.train_args.get("steps")),
        output_dir_lp=None,
        steps_lp=None,
        probe_per_trial=None,
    )


def auxiliary(job: Job, dataset: str, hparams_seed: int) -> Job:
    """A fine-tuning on all domains of an auxiliary dataset, the same for any target."""
    return job.derive(
        root=job.train_args.get("aux_dir") or f"{job.root}/aux",
        algorithm="FineTuning",
        dataset=dataset,
        test_envs=[-1],
        hparams_seed=hparams_seed,
        trial_seed=0,
        output_dir_lp=None,
        probe_per_trial=None,
    )


def fine_tuning_needs(job: Job) -> list[Need]:
    """A probe, unless this run is one or is given its weights."""
    args = job.train_args
    if args.get("what_is_trainable") == "classifier" or args.get("path_init"):
        return []
    return [Need("probe", probe(job))]


def inter_training_needs(job: Job) -> list[Need]:
    """A probe, and the auxiliary run that is this run's turn."""
    needs = fine_tuning_needs(job)
    if not needs or job.train_args.get("ingredients"):
        return needs
    runs = auxiliary_runs(job)
    return [*needs, *(Need("auxiliary", run) for run in turn(runs, job.train_args))]


def turn(ingredients: Sequence[T], args: Mapping[str, Any]) -> Sequence[T]:
    """The ingredient that a run of InterTraining starts from; none for the foundation."""
    k = args["hparams_seed"] % (len(ingredients) + 1)
    return ingredients[k - 1 : k] if k else ()


def fusing_needs(job: Job) -> list[Need]:
    """A probe, and an auxiliary run of each dataset."""
    needs = fine_tuning_needs(job)
    if not needs or job.train_args.get("ingredients"):
        return needs
    return [*needs, *(Need("auxiliary", run) for run in auxiliary_runs(job))]


def auxiliary_runs(job: Job) -> list[Job]:
    """The auxiliary run of each dataset that is this run's turn."""
    args = job.train_args
    sources = args.get("aux_datasets")
    if not sources:
        raise InputError(
            f"{args['algorithm']} starts from auxiliary runs, but no --aux_datasets was given; "
            "name at least one dataset other than the target"
        )
    seed = args["hparams_seed"] % args.get("aux_hparams", AUX_HPARAMS)
    return [auxiliary(job, dataset, seed) for dataset in sources]


def members_of(algorithm: str) -> Callable[[Job], list[Need]]:
    """The needs of an average: the runs of `algorithm` over all hparams seeds, and all trials."""

    def needs(job: Job) -> list[Need]:
        args = job.train_args
        if not args.get("n_hparams"):
            raise InputError(
                f"{args['algorithm']} was given no members to average; "
                "say with --n_hparams over how many hparams seeds"
            )
        if args.get("n_trials") and args.get("probe_per_trial"):
            raise InputError(
                f"{args['algorithm']} averages over trials, whose heads differ with "
                "--probe_per_trial; leave either out"
            )
        trials = range(args["n_trials"]) if args.get("n_trials") else [args["trial_seed"]]
        first = args.get("n_hparams_from", 0)
        seeds = range(first, first + args["n_hparams"])
        return [
            Need("member", job.derive(algorithm=algorithm, trial_seed=trial, hparams_seed=k))
            for trial in trials
            for k in seeds
        ]

    return needs


def along_run_needs(job: Job) -> list[Need]:
    """The fine-tuning that an average along one run is of."""
    return [Need("member", job.derive(algorithm="FineTuning"))]


def wise_needs(job: Job) -> list[Need]:
    """The two ends of an interpolation: the probed foundation, and a fine-tuning."""
    (member,) = along_run_needs(job)
    return [Need("probe", probe(member.job)), member]


def plan_aux_datasets(given: list[str] | None, target: Target) -> list[str] | None:
    """The auxiliary datasets of a target: those given, or all others of its kind that are there.

    The target itself is never one of them; a pool needs none. Raises `InputError` when none is
    left.
    """
    data_dir = target.args.get("data_dir")
    if pool.is_pool(target.args.get("aux_dir")):
        return _not_of_a_pool("aux_datasets", given)
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
        return _not_of_a_pool("aux_hparams", given)
    if given is not None and given < 1:
        raise InputError(f"--aux_hparams was given {given}; expected at least 1")
    return AUX_HPARAMS if given is None else given


def _not_of_a_pool(option: str, given: Any) -> None:
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
    if not pool.is_pool(aux_dir):
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


def register() -> None:
    """Add the plug-in's options and algorithms to domainbed's registries."""
    _register_options()
    trained = ("output_dir_lp", "steps_lp", "probe_per_trial")
    recycled = (*trained, "aux_datasets", "aux_hparams", "aux_dir", *POOLED)
    of_all = ("n_hparams", "n_hparams_from")
    _add("FineTuning", "FineTuning", followed_space, trained, fine_tuning_needs)
    _add("InterTraining", "InterTraining", inter_training_space, recycled, inter_training_needs)
    _add("Fusing", "Fusing", inter_training_space, (*recycled, "fusing_range"), fusing_needs)
    averaged = (*trained, "bn")
    for name, execute in (("MovingAverage", "moving_average"), ("SWAD", "swad")):
        _add(name, "FineTuning", followed_space, averaged, along_run_needs, execute)
    takes = (*averaged, "wise_alpha")
    _add("WiSE", "FineTuning", followed_space, takes, wise_needs, "wise")
    for member, average, space, takes in (
        ("FineTuning", "DiWA", followed_space, trained),
        ("InterTraining", "Ratatouille", inter_training_space, recycled),
    ):
        needs, takes = members_of(member), (*takes, *of_all)
        _add(f"Ensemble_{member}", member, space, takes, needs, "ensemble")
        for rule, more in (("uniform", ()), ("greedy", ()), ("dagger", ("n_trials",))):
            _add(f"{average}_{rule}", member, space, (*takes, "bn", *more), needs, rule)


def _add(
    name: str,
    cls: str,
    space: Callable[[str], list[HParam]],
    takes: Sequence[str],
    needs: Callable[[Job], list[Need]],
    execute: str | None = None,
) -> None:
    """Register one algorithm; `execute` names the function that makes it from finished runs."""
    further = {"execute": f"ratatouille_algorithms.averages:{execute}"} if execute else {}
    cls = f"ratatouille_algorithms.algorithms:{cls}"
    algorithms.add(name, cls, space, needs=needs, takes=tuple(takes), **further)


def _option(name: str, text: str, plan: Callable | None = None, **parser: Any) -> None:
    given = {"help": text, **parser}
    OPTIONS[name] = Option(given, plan) if plan else Option(given)


def _register_options() -> None:
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
        type=int,
        metavar="N",
    )
    _option("aux_dir", "where auxiliary runs are, shared between sweeps; or a pool", metavar="DIR")
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
    _option("output_dir_lp", "where linear probes are", metavar="DIR")
    _option(
        "steps_lp",
        "updates of linear probes (default: as other runs)",
        plan_steps_lp,
        type=int,
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
        "fusing_range",
        f"of Fusing: coefficients are exp(x uniform(0, 1)), normalised (default {FUSING_RANGE:g})",
        plan_fusing_range,
        type=float,
        metavar="X",
    )
    _option(
        "wise_alpha",
        "of WiSE: the share of fine-tuned weights; default: the best by ID validation",
        plan_wise_alpha,
        type=float,
        metavar="X",
    )
    _option(
        "bn",
        "BatchNorm statistics of averages: those of the members averaged (default), or estimated "
        "anew on training data",
        choices=("average", "reestimate"),
    )
