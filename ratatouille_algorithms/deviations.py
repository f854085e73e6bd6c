"""How runs differ from what published results were measured with, computed from their records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domainbed import algorithms, datasets
from domainbed.lib.doubts import Record
from domainbed.lib.query import Q
from domainbed.tables import env_names, in_order

N_TRIALS, N_HPARAMS, HOLDOUT = 3, 20, 0.2
"""Of DomainBed's protocol, and so of all published results."""

N_STEPS = 5001
ALSO_PUBLISHED_STEPS = {"DomainNet": 15001}


def deviations(records: Q) -> list[str]:
    """A line for each dataset that was not run as published results were, and one for protocols.

    What holds for some algorithms only names them.
    """
    tested = last_of_each_run(records)
    by_dataset = dict(iter(tested.group("args.dataset")))
    lines = [
        f"{dataset} is not run at the published protocol: {'; '.join(parts)}"
        for dataset in in_order(by_dataset, datasets.DATASETS, datasets.REGISTRY)
        if (parts := _differences(dataset, by_dataset[dataset]))
    ]
    return lines + _protocols(tested)


def last_of_each_run(records: Q) -> Q:
    """A record of the last step of each run with a test domain, which has all that runs share."""
    last: dict[int, Record] = {}
    for record in records:
        key = id(record["args"])
        if key not in last or record["step"] >= last[key]["step"]:
            last[key] = record
    return Q(r for r in last.values() if any(env >= 0 for env in r["args"]["test_envs"]))


def _differences(dataset: str, records: Q) -> list[str]:
    groups = dict(iter(records.group("args.algorithm")))
    envs = env_names(records, dataset)
    parts = []
    for fact in FACTS:
        said: dict[str, list[str]] = {}
        for algorithm in in_order(groups, algorithms.ALGORITHMS, algorithms.REGISTRY):
            if text := fact(dataset, groups[algorithm], envs):
                said.setdefault(text, []).append(algorithm)
        for text, names in said.items():
            parts.append(text if len(names) == len(groups) else f"{text} ({', '.join(names)})")
    return parts


def _protocols(records: Q) -> list[str]:
    by_name = records.group(lambda record: str(record["args"].get("protocol", "not recorded")))
    if len(by_name) == 1 and by_name[0][0] != "not recorded":
        return [f"protocol: {by_name[0][0]}"]
    told = [
        f"{name} ({', '.join(map(str, some.select('args.algorithm').unique()))})"
        for name, some in by_name
    ]
    mixed = "; rows of different protocols are not comparable" if len(told) > 1 else ""
    return [f"protocol: {', '.join(told)}{mixed}"]


def fraction(value: Any, default: float) -> float:
    """A recorded fraction, or the default where there is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else default


def holdout(args: dict[str, Any]) -> float:
    """The share of each domain that was held out for validation."""
    return fraction(args.get("holdout_fraction"), HOLDOUT)


def _steps(dataset: str, records: Q, envs: list[str]) -> str:
    usual = (
        getattr(datasets.REGISTRY[dataset], "N_STEPS", N_STEPS) if _is_known(dataset) else N_STEPS
    )
    last: dict[tuple, int] = {}
    for record in records:
        args = record["args"]
        run = tuple(args["test_envs"]), args["trial_seed"], args["hparams_seed"]
        last[run] = max(last.get(run, 0), record["step"])
    done = sorted({step + 1 for step in last.values()})  # the last record is of the last update
    if all(n in (usual, ALSO_PUBLISHED_STEPS.get(dataset)) for n in done):
        return ""
    told = f"{done[0]:,}" if len(done) == 1 else f"{done[0]:,} to {done[-1]:,}"
    return f"{told} steps instead of {usual:,}"


def _is_known(dataset: str) -> bool:
    return dataset in datasets.REGISTRY


def _trials(dataset: str, records: Q, envs: list[str]) -> str:
    n = max(len(records.select("args.trial_seed").unique()), _most(records, "n_trials"))
    return _too_few(n, N_TRIALS, "trial")


def _draws(dataset: str, records: Q, envs: list[str]) -> str:
    n = max(len(records.select("args.hparams_seed").unique()), _most(records, "n_hparams"))
    return _too_few(n, N_HPARAMS, "hparam draw")


def _most(records: Q, key: str) -> int:
    """The largest count that an average was made of."""
    counts = [record["args"].get(key) for record in records]
    return max((n for n in counts if type(n) is int), default=0)


def _too_few(n: int, wanted: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)} instead of {wanted}" if n < wanted else ""


def _test_envs(dataset: str, records: Q, envs: list[str]) -> str:
    tested = {env for record in records for env in record["args"]["test_envs"]}
    missing = [name for env, name in enumerate(envs) if env not in tested]
    return f"not tested on {', '.join(missing)}" if missing else ""


def _holdout(dataset: str, records: Q, envs: list[str]) -> str:
    shares = sorted({holdout(record["args"]) for record in records} - {HOLDOUT})
    return " and ".join(f"{share:.0%} held out instead of {HOLDOUT:.0%}" for share in shares)


def _network(dataset: str, records: Q, envs: list[str]) -> str:
    if datasets.is_small(dataset):
        return ""
    told = {network_of(record.get("hparams", {})) for record in records} - {"ResNet-50"}
    return " and ".join(sorted(told))


def network_of(hparams: dict[str, Any]) -> str:
    """What images of usual size are seen by, as far as hparams tell."""
    backbone = hparams.get("backbone", "auto")
    if backbone != "auto":
        return str(backbone)
    for key, name in (("dinov2", "DINOv2"), ("vit", "ViT"), ("resnet18", "ResNet-18")):
        if hparams.get(key):
            return name
    name = "ResNet-50 with AugMix weights" if hparams.get("resnet50_augmix") else "ResNet-50"
    return name if hparams.get("freeze_bn", True) else f"{name}, BatchNorm not frozen"


def _foundation(dataset: str, records: Q, envs: list[str]) -> str:
    return _given(records, "foundation", "foundation {}")


def _overrides(dataset: str, records: Q, envs: list[str]) -> str:
    return _given(records, "hparams", "--hparams {}")


def _given(records: Q, key: str, text: str) -> str:
    values = dict.fromkeys(str(r["args"][key]) for r in records if r["args"].get(key) is not None)
    return text.format(" and ".join(values)) if values else ""


FACTS: tuple[Callable[[str, Q, list[str]], str], ...] = (
    _steps,
    _trials,
    _draws,
    _test_envs,
    _holdout,
    _network,
    _foundation,
    _overrides,
)
