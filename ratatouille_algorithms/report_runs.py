"""The runs of a report as data: groups of an algorithm on a dataset, with curves to draw."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from domainbed import algorithms, datasets
from domainbed.lib.query import Q
from domainbed.lib.reporting import Record, get_grouped_records
from domainbed.model_selection import SELECTIONS
from domainbed.tables import in_order
from ratatouille_algorithms.inventory import AUXILIARY, KINDS, Run, number, rows

MAX_POINTS = 120
"""Records of a curve that are kept, evenly spread."""

Data = dict[str, Any]


def algorithm_names(runs: Iterable[Run]) -> list[str]:
    """Algorithms in the order of tables."""
    return in_order((r.algorithm for r in runs), algorithms.ALGORITHMS, algorithms.REGISTRY)


def dataset_names(runs: Iterable[Run]) -> list[str]:
    """Datasets in the order of tables."""
    return in_order((r.dataset for r in runs), datasets.DATASETS, datasets.REGISTRY)


def grouped(runs: list[Run], records: Q, link: Callable[[Path], str]) -> Iterator[Data]:
    """Groups of runs of one kind, dataset and algorithm, in the order of tables."""
    names, places = algorithm_names(runs), dataset_names(runs)
    found: dict[tuple, list[Run]] = {}
    for run in runs:
        key = KINDS.index(run.kind), places.index(run.dataset), names.index(run.algorithm)
        found.setdefault(key, []).append(run)
    by_name = {run.path.name: run for run in runs}
    chosen = selected(records)
    for key in sorted(found):
        yield _group(found[key], by_name, chosen, link)


def _group(
    runs: list[Run], by_name: dict[str, Run], chosen: set[tuple], link: Callable[[Path], str]
) -> Data:
    first = runs[0]
    runs = sorted(runs, key=_order)
    hparams = varied([run.hparams for run in runs])
    return {
        "title": f"{first.algorithm} on {first.dataset}, {first.kind}",
        "hparams": hparams,
        "runs": [
            {
                "href": link(run.path),
                "name": run.path.name[:12],
                "env": run.test_domains,
                "trial": number(run.args.get("trial_seed")),
                "seed": number(run.args.get("hparams_seed")),
                "hparams": [_plain(run.hparams.get(name)) for name in hparams],
                "from": _origin(run, by_name),
                **_accs(run),
                "chosen": _identity(run.args) in chosen,
                "seconds": round(run.seconds, 1) if run.seconds else None,
                "state": run.state,
                "curve": curve(run),
            }
            for run in runs
        ],
    }


def _order(run: Run) -> tuple:
    args = run.args
    return run.test_envs, number(args.get("trial_seed")) or 0, number(args.get("hparams_seed")) or 0


def _plain(value: Any) -> Any:
    if number(value) is not None:
        return float(f"{value:.3g}")
    return None if value is None else str(value)


def varied(tables_of_hparams: list[Data]) -> list[str]:
    """Names of the hyper-parameters that are not the same in all runs."""
    seen: dict[str, set[str]] = {}
    for hparams in tables_of_hparams:
        for name, value in hparams.items():
            seen.setdefault(name, set()).add(repr(value))
    return [name for name, values in seen.items() if len(values) > 1]


def made_from(run: Run) -> list[str]:
    """Names of the run folders that a run's initial weights are from."""
    return [str(start.get("run")) for start in rows(run.provenance, "initial", dict)]


def _origin(run: Run, by_name: dict[str, Run]) -> str:
    members = rows(run.provenance, "members", dict)
    if members:
        n_kept = sum(member.get("is_kept", True) is True for member in members)
        return f"{n_kept} of {len(members)} runs"
    parts = []
    for start in rows(run.provenance, "initial", dict):
        source = by_name.get(str(start.get("run")))
        if source is not None and source.kind == AUXILIARY:
            parts.append(source.dataset)
        else:
            parts.append(str(start.get("role")))
    return ", ".join(parts)


def _accs(run: Run) -> dict[str, float | None]:
    """Accuracies in percent at the step that ID validation picks."""
    found = SELECTIONS["iid"].run_acc(Q(run.records)) if run.records else None
    if not found:
        return {"val": None, "test": None}
    return {"val": round(100 * found["val_acc"], 1), "test": round(100 * found["test_acc"], 1)}


def selected(records: Q) -> set[tuple]:
    """The runs that ID validation selects, of each trial, dataset, algorithm and test domain."""
    chosen = set()
    for group in get_grouped_records(records):
        found = SELECTIONS["iid"].hparams_accs(group["records"])
        if len(found):
            chosen |= {
                _identity(r["args"]) for r in found[0][1] if len(r["args"]["test_envs"]) == 1
            }
    return chosen


def _identity(args: Data) -> tuple:
    names = ("dataset", "algorithm", "trial_seed", "hparams_seed", "what_is_trainable")
    return (*(str(args.get(name)) for name in names), str(args.get("test_envs")))


def curve(run: Run) -> list[list[float | None]]:
    """Steps, validation and test accuracy in percent, and loss; None where not recorded."""
    stride = -(-len(run.records) // MAX_POINTS) or 1
    some = run.records[::-1][::stride][::-1]  # the last record is kept
    test_envs = tuple(run.test_envs)
    keys = [_keys(tuple(record), test_envs) for record in some]
    return [
        [record["step"] for record in some],
        [_mean(record, val) for record, (val, _) in zip(some, keys)],
        [_mean(record, test) for record, (_, test) in zip(some, keys)],
        [None if (x := number(r.get("loss"))) is None else float(f"{x:.4g}") for r in some],
    ]


@functools.lru_cache(maxsize=1024)
def _keys(keys: tuple[str, ...], test_envs: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Of a record's keys the accuracies that validate and that test; all of a run have these."""
    envs = [env for env in range(len(keys)) if f"env{env}_in_acc" in keys]
    val = [f"env{env}_out_acc" for env in envs if env not in test_envs]
    test = [f"env{env}_in_acc" for env in test_envs]
    return [key for key in val if key in keys], [key for key in test if key in keys]


def _mean(record: Record, keys: list[str]) -> float | None:
    return round(100 * sum(record[key] for key in keys) / len(keys), 1) if keys else None
