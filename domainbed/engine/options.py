"""The command line of a training run, and what of it is the run's identity."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from domainbed import protocols
from domainbed.lib import arguments
from domainbed.registry import Registry


@dataclass(frozen=True)
class Target:
    """What a sweep plans options for: a dataset, all of its datasets, and its other arguments."""

    dataset: str
    datasets: list[str]
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """An argument that a plug-in adds to train and sweep, for the algorithms that take it.

    parser: keywords of `argparse.ArgumentParser.add_argument`. plan: the value for runs on one
    dataset, from what a sweep was given (or None) and the `Target`.
    """

    parser: Mapping[str, Any]
    plan: Callable[[Any, Target], Any] = lambda given, _: given


OPTIONS: Registry[Option] = Registry("option", home="domainbed.engine.options")

TASKS = ("domain_generalization", "domain_adaptation")
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Options:
    """The arguments of one run, as the command line gives them; `further` holds plug-ins' own."""

    data_dir: str | None = None
    dataset: str = "RotatedMNIST"
    algorithm: str = "ERM"
    task: str = TASKS[0]
    hparams: str | None = None
    hparams_seed: int = 0
    trial_seed: int = 0
    seed: int = 0
    sweep_seed: int = 0
    steps: int | None = None
    checkpoint_freq: int | None = None
    test_envs: tuple[int, ...] = (0,)
    output_dir: str = "train_output"
    holdout_fraction: float = 0.2
    uda_holdout_fraction: float = 0.0
    skip_model_save: bool = False
    save_model_every_checkpoint: bool = False
    protocol: str | None = None
    foundation: str | None = None
    path_init: str | None = None
    what_is_trainable: str = "all"
    n_hparams: int | None = None
    n_hparams_from: int = 0
    n_trials: int | None = None
    num_workers: int | None = None
    checkpoint_seconds: float | None = None
    memory: float | None = None
    image_cache: str | None = None
    image_cache_size: int | None = None
    precision: str = PRECISIONS[0]
    compile: bool = False
    further: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @staticmethod
    def of(namespace: argparse.Namespace) -> Options:
        """Take the options of a run from parsed arguments."""
        return Options.of_args(vars(namespace))

    @staticmethod
    def of_args(args: Mapping[str, Any]) -> Options:
        """Take the options of a run from a job's arguments, or from those in its records."""
        own = {key: args[key] for key in Options.__dataclass_fields__ if key in args}
        own["protocol"] = protocols.set_name(own.get("protocol"))
        own["test_envs"] = tuple(own["test_envs"])
        return Options(**own, further={key: args.get(key) for key in OPTIONS})

    def identity(self) -> dict[str, Any]:
        """The arguments that make this job what it is: DomainBed's nine, and others that are set.

        How a job is run (output_dir, workers, image cache, what is saved) is no part of it.
        """
        args = {key: self._plain(key) for key in _ALWAYS if self._plain(key) is not None}
        for key in _WHEN_SET:
            if self._plain(key) != Options.__dataclass_fields__[key].default:
                args[key] = self._plain(key)
        args.update({key: value for key, value in self.further.items() if value is not None})
        return args

    def recorded(self) -> dict[str, Any]:
        """`args` of every record: DomainBed's sixteen, the protocol, and others that are set."""
        args = {key: self._plain(key) for key in _RECORDED}
        return {**args, **self.identity(), "protocol": protocols.get_protocol(self.protocol).name}

    def _plain(self, key: str) -> Any:
        value = getattr(self, key)
        return list(value) if isinstance(value, tuple) else value


HOW = ("image_cache", "memory", "checkpoint_seconds", "save_model_every_checkpoint")
"""How the runs of a sweep are run: arguments that change no number."""

MEMORY_HELP = "what networks that are measured in one pass, or kept features, may take (default 1)"

_ALWAYS = (
    "dataset algorithm test_envs holdout_fraction hparams_seed data_dir task trial_seed seed"
).split()
_WHEN_SET = (
    "steps hparams checkpoint_freq uda_holdout_fraction protocol foundation path_init "
    "what_is_trainable n_hparams n_hparams_from n_trials sweep_seed image_cache_size precision "
    "compile"
).split()
_RECORDED = (
    "data_dir dataset algorithm task hparams hparams_seed trial_seed seed steps checkpoint_freq "
    "test_envs output_dir holdout_fraction uda_holdout_fraction skip_model_save "
    "save_model_every_checkpoint"
).split()


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of one run; names and defaults are DomainBed's."""
    o = Options()
    add = parser.add_argument
    add("--dataset", default=o.dataset, help="a registered dataset, or a folder of data_dir")
    add("--algorithm", default=o.algorithm)
    add("--hparams", metavar="JSON", help="values that override defaults and draws")
    add("--hparams_seed", type=arguments.seed, default=0, help="0 takes the defaults, others draw")
    add("--trial_seed", type=arguments.seed, default=0, help="which split, and part of every draw")
    add(
        "--seed",
        type=arguments.seed,
        default=0,
        help="of the initial weights and the training stream",
    )
    add(
        "--sweep_seed",
        type=arguments.seed,
        default=0,
        help="the --seed of the sweep this run is part of",
    )
    add(
        "--test_envs",
        type=arguments.domain,
        nargs="+",
        default=list(o.test_envs),
        help="-1 holds out none",
    )
    add("--output_dir", type=arguments.path, default=o.output_dir)
    add("--skip_model_save", action="store_true")
    add(
        "--path_init",
        type=arguments.path,
        metavar="PATH",
        help="start from the weights of a run folder or a file",
    )
    add("--what_is_trainable", choices=("all", "classifier"), default="all")
    add(
        "--num_workers",
        type=arguments.processes(),
        help="processes that load data; 0 loads in this one",
    )
    add(
        "--n_hparams",
        type=arguments.some_runs,
        help="of an average: how many hparams seeds it is made of",
    )
    add(
        "--n_hparams_from",
        type=arguments.seed,
        default=0,
        help="of an average: the first of them",
    )
    add(
        "--n_trials",
        type=arguments.some_runs,
        help="of an average over trials: how many of them",
    )
    add_common_arguments(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that a run and a sweep share, plug-ins' included."""
    add = parser.add_argument
    add(
        "--data_dir",
        type=arguments.path,
        help="where the datasets' folders are; embedded datasets need none",
    )
    add("--task", choices=TASKS, default=TASKS[0])
    add(
        "--holdout_fraction",
        type=arguments.fraction,
        default=0.2,
        help="of each domain, for validation",
    )
    add(
        "--uda_holdout_fraction",
        type=arguments.fraction,
        default=0.0,
        help="of a test domain's rest, to adapt to without labels",
    )
    add("--steps", type=arguments.at_least_one, help="updates; default: the dataset's")
    add(
        "--checkpoint_freq",
        type=arguments.at_least_one,
        help="updates between records; default: the dataset's",
    )
    add("--protocol", choices=list(protocols.PROTOCOLS), help="a named set of choices")
    add(
        "--foundation",
        type=arguments.path,
        metavar="NAME|FILE|random",
        help="the featurizer's initial weights; default: the backbone's own",
    )
    add(
        "--image_cache",
        type=arguments.path,
        metavar="DIR",
        help="keep decoded images there, for all processes to share",
    )
    add(
        "--image_cache_size",
        type=arguments.at_least_one,
        metavar="N",
        help="scale images down to a shorter side of N when they are decoded; default: as they are",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="bf16 computes featurizers in bfloat16; weights and losses stay in float32",
    )
    add(
        "--compile",
        action="store_true",
        help="train featurizers compiled by torch.compile, which rounds differently",
    )
    add(
        "--checkpoint_seconds",
        type=arguments.seconds,
        metavar="S",
        help="save the state of training at least so often (default 600)",
    )
    add("--memory", type=arguments.gibibytes, metavar="GIB", help=MEMORY_HELP)
    add(
        "--save_model_every_checkpoint",
        action="store_true",
        help="keep the weights of each checkpoint in model_step<N>.safetensors",
    )
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="plug-ins that aren't installed")
    for name, option in OPTIONS.items():
        add(f"--{name}", **option.parser)
