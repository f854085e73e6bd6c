"""One run: its options checked, its data split, its folder ready to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch

from domainbed import __version__, algorithms, datasets, hparams_registry, protocols
from domainbed.datasets.base import evaluation_view
from domainbed.datasets.checking import check_before_training
from domainbed.engine import precision, rng
from domainbed.engine.checkpoint import State
from domainbed.engine.evaluator import Evaluator, acc_key
from domainbed.engine.loading import Source, Stream, is_in_memory
from domainbed.engine.options import TASKS, Options
from domainbed.engine.sinks import Records
from domainbed.engine.splits import Subset, make_weights_for_balanced_classes, split_keys
from domainbed.lib import weights
from domainbed.lib.machine import cores
from domainbed.lib.seeds import seed_hash
from domainbed.model_selection import mean
from domainbed.registry import InputError
from domainbed.runs import RunFolder

DEFAULT_GIB = 1.0
"""What --memory is where it is not given."""

_LEAST = {"steps": 1, "checkpoint_freq": 1, "num_workers": 0, "image_cache_size": 1}
_LEAST.update(checkpoint_seconds=0, memory=0)


@dataclass(frozen=True)
class Split:
    """Keys of one domain: to train or test on, to validate on, to adapt to."""

    in_: Sequence[int]
    out: Sequence[int]
    uda: Sequence[int] = ()


@lru_cache(maxsize=4)
def _dataset(name: str, data_dir: str | None, test_envs: tuple[int, ...], hparams: str, seed: int):
    """A dataset, kept in memory for the next run of this process that asks for the same."""
    with rng.preserved():
        rng.seed_cpu(seed)
        overrides = hparams_registry.parse_overrides(hparams)
        dataset = datasets.make(name, data_dir, list(test_envs), overrides)
        check_before_training(name, dataset, datasets.environments(name, data_dir))
    return dataset


def hparams_of(options: Options) -> dict[str, Any]:
    """The hyper-parameters of a run: defaults or a draw, its protocol's, then its overrides."""
    seed = seed_hash(options.hparams_seed, options.trial_seed) if options.hparams_seed else None
    overrides = hparams_registry.parse_overrides(options.hparams)
    names = hparams_registry.space(options.algorithm, options.dataset)
    protocol = protocols.get_protocol(options.protocol)
    preset = {key: value for key, value in protocol.hparams.items() if key in names}
    return hparams_registry.resolve(
        options.algorithm, options.dataset, seed, {**preset, **overrides}
    )


def check_batch(dataset: str, env_name: str, n_samples: int, batch_size: int) -> None:
    """Raise `InputError` if a domain has fewer training samples than a batch takes of it."""
    if n_samples < batch_size:
        raise InputError(
            f"Domain {env_name!r} of {dataset} has {n_samples} training samples, fewer than "
            f"batch_size={batch_size}; lower batch_size with "
            f"""--hparams '{{"batch_size": {max(n_samples, 1)}}}' or drop the domain"""
        )


class Run:
    """Everything that a job shares, whether it trains or averages.

    Building one checks all that can be checked before work is spent, and raises `InputError`.
    """

    def __init__(self, options: Options, needs: Mapping[str, list[RunFolder]]) -> None:
        self.options = options
        self.needs = needs
        self.protocol = protocols.get_protocol(options.protocol)
        self.method = algorithms.get_method(options.algorithm)
        self.folder = RunFolder(options.output_dir)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.hparams = hparams_of(options)
        self.dataset = self._make_dataset()
        self.env_names = datasets.environments(options.dataset, options.data_dir)
        self.environments = list(self.dataset)
        self.splits = [self._split(env) for env in range(len(self.dataset))]
        self._check_sizes()
        self.records = Records(self.folder)
        self.provenance: dict[str, Any] = {}
        self.state: State | None = None

    def _make_dataset(self) -> Any:
        o = self.options
        if o.task not in TASKS:
            raise InputError(f"--task was given {o.task!r}; expected one of {', '.join(TASKS)}")
        for name in ("holdout_fraction", "uda_holdout_fraction"):
            if not 0 <= getattr(o, name) < 1:
                raise InputError(f"--{name} was given {getattr(o, name)}; expected 0 <= x < 1")
        for name, least in _LEAST.items():
            if getattr(o, name) is not None and getattr(o, name) < least:
                raise InputError(f"--{name} was given {getattr(o, name)}; expected >= {least}")
        datasets.find(o.dataset, o.data_dir)
        datasets.check(o.dataset, o.data_dir)
        seed = o.seed if self.protocol.partition_by_seed else seed_hash("dataset", o.trial_seed)
        text = hparams_registry.json.dumps(self._data_hparams(), sort_keys=True)
        return _dataset(o.dataset, o.data_dir, o.test_envs, text, seed)

    def _data_hparams(self) -> dict[str, Any]:
        """The hparams that a built-in dataset reads, and its cache; a plug-in's may read any."""
        o, own = self.options, self.hparams
        cls = datasets.find(o.dataset, o.data_dir)
        if cls.__module__.split(".")[0] == "domainbed":
            own = {k: own[k] for k in ("data_augmentation", "image_size") if k in own}
        return {**own, "image_cache": o.image_cache, "image_cache_size": o.image_cache_size}

    @cached_property
    def test_envs(self) -> list[int]:
        """The domains held out; none for --test_envs -1."""
        return [env for env in self.options.test_envs if env >= 0]

    @cached_property
    def train_envs(self) -> list[int]:
        """The domains trained on."""
        return [env for env in range(len(self.dataset)) if env not in self.test_envs]

    def _split(self, env: int) -> Split:
        o, n = self.options, len(self.dataset[env])
        seed = seed_hash(o.trial_seed, env)
        out, in_ = split_keys(n, int(n * o.holdout_fraction), seed)
        uda: Sequence[int] = ()
        if env in self.test_envs and o.uda_holdout_fraction:
            first, rest = split_keys(len(in_), int(len(in_) * o.uda_holdout_fraction), seed)
            uda, in_ = [in_[i] for i in first], [in_[i] for i in rest]
        return Split(in_, out, uda)

    def _check_sizes(self) -> None:
        if len(set(self.test_envs)) < len(self.test_envs):
            raise InputError(
                f"--test_envs {list(self.options.test_envs)} names a domain twice; name each once"
            )
        if not self.train_envs:
            raise InputError(
                f"--test_envs {list(self.options.test_envs)} holds out every domain of "
                f"{self.options.dataset} ({', '.join(self.env_names)}); leave one to train on"
            )
        batch = self.hparams["batch_size"]
        for env in self.train_envs:
            n = len(self.splits[env].in_)
            check_batch(self.options.dataset, self.env_names[env], n, batch)
        if self.options.task == "domain_adaptation":
            self._check_adaptation()

    def _check_adaptation(self) -> None:
        fraction, batch = self.options.uda_holdout_fraction, self.hparams["batch_size"]
        if not self.test_envs or not fraction:
            raise InputError(
                f"--task domain_adaptation needs unlabelled samples of a test domain, but "
                f"--uda_holdout_fraction is {fraction} and --test_envs is "
                f"{list(self.options.test_envs)}; give a fraction above 0 and a test domain"
            )
        for env in self.test_envs:
            n = len(self.splits[env].uda)
            if n < batch:
                raise InputError(
                    f"--uda_holdout_fraction {fraction} leaves {n} samples of domain "
                    f"{self.env_names[env]!r} of {self.options.dataset} to adapt to, fewer than "
                    f"batch_size={batch}; give a larger fraction or a lower batch_size"
                )

    @property
    def n_steps(self) -> int:
        """Updates of this run."""
        o = self.options
        return o.steps or self.protocol.steps.get(o.dataset) or self.dataset.N_STEPS

    @property
    def checkpoint_freq(self) -> int:
        """Updates between two records."""
        o = self.options
        preset = self.protocol.checkpoint_freq.get(o.dataset)
        return o.checkpoint_freq or preset or self.dataset.CHECKPOINT_FREQ

    @property
    def steps_per_epoch(self) -> float:
        """Updates until the smallest training domain was drawn once over."""
        least = min(len(self.splits[env].in_) for env in self.train_envs)
        return least / self.hparams["batch_size"]

    @cached_property
    def num_workers(self) -> int:
        """Processes that load data: none for data in memory or a run that has one core."""
        if self.options.num_workers is not None:
            return self.options.num_workers
        own = min(cores(), torch.get_num_threads())
        return 0 if own == 1 or all(is_in_memory(env) for env in self.dataset) else min(4, own)

    def stream(self, replacement: bool = True) -> Stream:
        """The training batches: first those of the training domains, then those to adapt to."""
        sources = [self._source(env, self.splits[env].in_) for env in self.train_envs]
        if self.options.task == "domain_adaptation":
            sources += [self._source(env, self.splits[env].uda, "uda") for env in self.test_envs]
        return Stream(sources, self.hparams["batch_size"], self.options.seed, replacement)

    def _source(self, env: int, keys: Sequence[int], split: str = "in") -> Source:
        environment, of_classes = self.environments[env], None
        if self.hparams.get("class_balanced") and split == "in":  # others have no labels to use
            of_classes = make_weights_for_balanced_classes(Subset(environment, keys))
        return Source(f"{env} {split}", environment, keys, of_classes)

    @cached_property
    def views(self) -> list[Any]:
        """The domains as they are evaluated: un-augmented unless the protocol says otherwise."""
        if self.protocol.val_augment:
            return self.environments
        return [evaluation_view(environment) for environment in self.environments]

    @property
    def memory(self) -> int:
        """Bytes that networks which are measured in one pass, or kept features, may take."""
        given = self.options.memory
        return int((DEFAULT_GIB if given is None else given) * 2**30)

    @property
    def evaluator(self) -> Evaluator:
        """Accuracies on every split."""
        splits = {
            env: {"in": split.in_, "out": split.out, "uda": split.uda}
            for env, split in enumerate(self.splits)
        }
        return Evaluator(self.views, splits, self.device, self.num_workers)

    def id_score(self, accs: Mapping[str, float]) -> float:
        """Mean accuracy on the training domains' out splits, which selects without the target.

        0 where nothing is held out.
        """
        return self.id_mean(accs) or 0.0

    def id_mean(self, values: Mapping[str, float]) -> float | None:
        """Mean of what was measured on the training domains' out splits; None for nothing."""
        keys = [acc_key(env, "out") for env in self.train_envs]
        some = [values[key] for key in keys if key in values]
        return mean(some) if some else None  # to the bit as tables select, so that ties are ties

    def whole_domain_acc(self, accs: Mapping[str, float], env: int) -> float:
        """Accuracy on all samples of a domain, from those of its splits."""
        split = self.splits[env]
        sizes = {"in": len(split.in_), "out": len(split.out), "uda": len(split.uda)}
        right = sum(n * accs[acc_key(env, name)] for name, n in sizes.items() if n)
        return right / sum(sizes.values())

    def build(self) -> Any:
        """The algorithm, its initial weights drawn from the run's seed."""
        rng.seed_all(self.options.seed)
        hparams = dict(self.hparams)
        if self.options.foundation is not None:
            hparams["foundation"] = self.options.foundation
        cls = self.method.load()
        try:
            algorithm = cls(
                self.dataset.input_shape, self.dataset.num_classes, len(self.train_envs), hparams
            )
        except InputError:  # an unknown name is a KeyError, too, and says what it is
            raise
        except KeyError as error:
            name = error.args[0] if error.args else None
            if not isinstance(name, str) or name in hparams:
                raise
            raise InputError(
                f"{self.options.algorithm} looked for {name!r} while it was built, and no hparam "
                f"has this name; declare it: register(hparams=[HParam({name!r}, DEFAULT)])"
            ) from error
        if self.options.precision == "bf16":
            precision.compute_in_bf16(algorithm, self.device)
        if self.method.channels_last:
            return algorithm.to(self.device, memory_format=torch.channels_last)
        return algorithm.to(self.device)

    def description(self) -> dict[str, Any]:
        """What run.json and the headers of weights say."""
        return {
            "args": self.options.recorded(),
            "hparams": self.hparams,
            "protocol": self.protocol.name,
            "provenance": self.provenance,
            "code_version": __version__,
            "input_shape": list(self.dataset.input_shape),
            "num_classes": self.dataset.num_classes,
            "num_domains": len(self.train_envs),
            "environments": self.env_names,
        }

    def record(self, step: int, values: Mapping[str, float], accs: Mapping[str, float]) -> None:
        """Write one record."""
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
        self.records.write(
            {
                "step": step,
                "epoch": step / self.steps_per_epoch,
                **values,
                **accs,
                "mem_gb": memory,
                "hparams": self.hparams,
                "args": self.options.recorded(),
                "environments": self.env_names,
            }
        )

    def save(self, name: str, algorithm: Any, **header: Any) -> None:
        """Write the algorithm's weights, with a header that says where they come from."""
        self.save_tensors(name, weights.tensors(algorithm), **header)

    def save_tensors(self, name: str, state: weights.State, **header: Any) -> None:
        """Write tensors by name, with a header that says where they come from."""
        if not self.options.skip_model_save:
            weights.save(self.folder / name, state, {**self.description(), **header})
