"""The recipe as a graph of jobs: what each strategy needs finished before it starts.

    foundation -> probe on each auxiliary dataset -> auxiliary runs on all its domains
    foundation -> probe on the target, shared by all runs of a (dataset, test envs)
    probe -> FineTuning runs -> DiWA_uniform, DiWA_greedy
    probe + auxiliary run -> InterTraining runs -> Ratatouille_uniform, Ratatouille_greedy

Run k of InterTraining starts from ingredient k mod (number of auxiliary datasets + 1), of which 0
is the foundation itself, and within auxiliary dataset i from its run k mod (its number of runs).
"""

from __future__ import annotations

from domainbed import algorithms, datasets
from domainbed.engine.options import OPTIONS, Option
from domainbed.hparams_registry import HParam, choice
from domainbed.jobs import Job, Need
from domainbed.registry import InputError

AUX_HPARAMS = 4
"""Auxiliary runs of each auxiliary dataset, as in the paper."""


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
    args, needs = job.train_args, fine_tuning_needs(job)
    if not needs:
        return []
    sources = args.get("aux_datasets")
    if not sources:
        raise InputError(
            "InterTraining starts from auxiliary runs, but no --aux_datasets was given; "
            "name at least one dataset other than the target"
        )
    k = args["hparams_seed"]
    ingredient = k % (len(sources) + 1)
    if ingredient:
        seed = k % args.get("aux_hparams", AUX_HPARAMS)
        needs.append(Need("auxiliary", auxiliary(job, sources[ingredient - 1], seed)))
    return needs


def members_of(algorithm: str):
    """The needs of an average: the runs of `algorithm` over all hparams seeds."""

    def needs(job: Job) -> list[Need]:
        args = job.train_args
        if not args.get("n_hparams"):
            raise InputError(
                f"{args['algorithm']} was given no members to average; "
                "say with --n_hparams over how many hparams seeds"
            )
        first = args.get("n_hparams_from", 0)
        seeds = range(first, first + args["n_hparams"])
        return [Need("member", job.derive(algorithm=algorithm, hparams_seed=k)) for k in seeds]

    return needs


def plan_aux_datasets(
    given: list[str] | None, dataset: str, sweep: list[str], data_dir: str | None
) -> list[str]:
    """The auxiliary datasets of a target: those given, or all others of its kind that are there.

    The target itself is never one of them. Raises `InputError` when none is left.
    """
    if given is None:
        kind = datasets.find(dataset, data_dir).KIND
        own = [name for name in sweep if datasets.find(name, data_dir).KIND == kind]
        given = [*datasets.available(kind, data_dir), *own]
    else:
        for name in given:
            datasets.check(name, data_dir)
    left = [name for name in dict.fromkeys(given) if name != dataset]
    if not left:
        raise InputError(
            f"There is no auxiliary dataset for {dataset}: none of its kind is in "
            f"{data_dir!r}; give --aux_datasets with at least one other dataset"
        )
    return left


def plan_aux_hparams(given: int | None, *_: object) -> int:
    """The number of auxiliary runs of each auxiliary dataset."""
    if given is not None and given < 1:
        raise InputError(f"--aux_hparams was given {given}; expected at least 1")
    return AUX_HPARAMS if given is None else given


def plan_steps_lp(given: int | None, *_: object) -> int | None:
    """The number of updates of a linear probe."""
    if given is not None and given < 1:
        raise InputError(f"--steps_lp was given {given}; expected at least 1")
    return given


def register() -> None:
    """Add the plug-in's options and algorithms to domainbed's registries."""
    OPTIONS["aux_datasets"] = Option(
        {
            "nargs": "+",
            "metavar": "DATASET",
            "help": "whose fine-tuned weights are recycled; default: the others of the same kind",
        },
        plan_aux_datasets,
    )
    OPTIONS["aux_hparams"] = Option(
        {"type": int, "metavar": "N", "help": f"runs of each of them (default {AUX_HPARAMS})"},
        plan_aux_hparams,
    )
    OPTIONS["aux_dir"] = Option(
        {"metavar": "DIR", "help": "where auxiliary runs are; share it between sweeps"}
    )
    OPTIONS["output_dir_lp"] = Option({"metavar": "DIR", "help": "where linear probes are"})

    OPTIONS["steps_lp"] = Option(
        {"type": int, "metavar": "N", "help": "updates of linear probes (default: as other runs)"},
        plan_steps_lp,
    )
    OPTIONS["probe_per_trial"] = Option(
        {
            "action": "store_true",
            "default": None,
            "help": "probe on each trial's own split instead of trial 0's for all",
        },
        lambda given, *_: given or None,
    )

    trained = ("output_dir_lp", "steps_lp", "probe_per_trial")
    aux = ("aux_datasets", "aux_hparams", "aux_dir")
    classes = "ratatouille_algorithms.algorithms:"
    add = algorithms.add
    add(
        "FineTuning",
        classes + "FineTuning",
        fine_tuning_space,
        needs=fine_tuning_needs,
        takes=trained,
    )
    add(
        "InterTraining",
        classes + "InterTraining",
        inter_training_space,
        needs=inter_training_needs,
        takes=(*trained, *aux),
    )
    for name, member, space, takes in (
        ("DiWA", "FineTuning", fine_tuning_space, trained),
        ("Ratatouille", "InterTraining", inter_training_space, (*trained, *aux)),
    ):
        for rule in ("uniform", "greedy"):
            add(
                f"{name}_{rule}",
                classes + member,
                space,
                needs=members_of(member),
                execute=f"ratatouille_algorithms.averages:{rule}",
                takes=("n_hparams", "n_hparams_from", *takes),
            )
