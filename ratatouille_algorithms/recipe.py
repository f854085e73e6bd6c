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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from domainbed import algorithms, datasets, hparams_registry
from domainbed.hparams_registry import HParam, choice
from domainbed.jobs import Job, Need
from domainbed.lib.bounds import AT_LEAST_ONE, COUNT, NOT_NEGATIVE, OneOf
from domainbed.registry import InputError
from domainbed.scripts import COMMANDS
from ratatouille_algorithms import options
from ratatouille_algorithms.options import AUX_HPARAMS

T = TypeVar("T")

POOLED = ("ingredients", "allow_unknown_provenance")


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
        HParam("ma_start", 100, bounds=COUNT),
        HParam("swad_n_converge", 3, bounds=AT_LEAST_ONE),
        HParam("swad_n_tolerance", 6, bounds=AT_LEAST_ONE),
        HParam("swad_tolerance", 0.2 if dataset == "VLCS" else 0.3, bounds=NOT_NEGATIVE),
        HParam("swad_rule", "code", bounds=OneOf(("code", "paper"))),
    ]


def inter_training_space(dataset: str) -> list[HParam]:
    """Those of fine-tuning, and how many first updates train only the head."""
    return [*fine_tuning_space(dataset), HParam("lp_steps", 200, bounds=COUNT)]


def probe(job: Job) -> Job:
    """The linear probe whose head a run starts from: default hparams, trial 0 unless asked."""
    args = job.train_args
    return job.derive(
        root=args.get("output_dir_lp") or f"{job.root}/lp",
        algorithm="FineTuning",
        hparams_seed=0,
        trial_seed=args["trial_seed"] if args.get("probe_per_trial") else 0,
        what_is_trainable="classifier",
        steps=args.get("steps_lp", args.get("steps")),
        hparams=_without_augmentation(job) if args.get("plain_probe") else args.get("hparams"),
        output_dir_lp=None,
        steps_lp=None,
        probe_per_trial=None,
        plain_probe=None,
    )


def _without_augmentation(job: Job) -> str:
    overrides = hparams_registry.parse_overrides(job.train_args.get("hparams"))
    return hparams_registry.json.dumps({**overrides, "data_augmentation": False})


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


def register() -> None:
    """Add the plug-in's options and algorithms to domainbed's registries."""
    options.register()
    COMMANDS["inference"] = "ratatouille_algorithms.scripts.inference:main"
    trained = ("output_dir_lp", "steps_lp", "probe_per_trial", "plain_probe")
    recycled = (*trained, "aux_datasets", "aux_hparams", "aux_dir", *POOLED)
    of_all = ("n_hparams", "n_hparams_from")
    _add("FineTuning", "FineTuning", followed_space, trained, fine_tuning_needs)
    _add("InterTraining", "InterTraining", inter_training_space, recycled, inter_training_needs)
    _add("Fusing", "Fusing", inter_training_space, (*recycled, "fusing_range"), fusing_needs)
    averaged = (*trained, "bn")
    for name, execute in (("MovingAverage", "moving_average"), ("SWAD", "swad")):
        _add(name, "FineTuning", followed_space, averaged, along_run_needs, execute)
    interpolated = (*averaged, "wise_alpha")
    _add("WiSE", "FineTuning", followed_space, interpolated, wise_needs, "wise")
    takes: tuple[str, ...]
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
    further: dict[str, Any] = {"channels_last": True}
    if execute:
        further["execute"] = f"ratatouille_algorithms.averages:{execute}"
    cls = f"ratatouille_algorithms.algorithms:{cls}"
    algorithms.add(name, cls, space, needs=needs, takes=tuple(takes), **further)
