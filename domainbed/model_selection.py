"""Model selection: which run, at which step, stands for an algorithm. Pure functions of records."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence

import numpy as np

from domainbed.lib.query import Q
from domainbed.lib.reporting import Record, is_full_data
from domainbed.registry import Registry

SELECTIONS: Registry[type[SelectionMethod]] = Registry(
    "selection method", home="domainbed.model_selection"
)
Acc = dict[str, float]


def mean(values: Sequence[float]) -> float:
    """Their mean, to the bit as NumPy adds up; for a few that takes longer than the sum itself."""
    if len(values) >= 8:
        return float(np.mean(values))
    return float(functools.reduce(operator.add, values) / len(values))


def get_test_records(records: Q) -> Q:
    """The records of runs that hold out a single domain, but of training on all samples."""
    return records.filter(_is_test_record)


def _is_test_record(record: Record) -> bool:
    return len(record["args"]["test_envs"]) == 1 and not is_full_data(record)


class SelectionMethod:
    """Base: a method gives each run a validation and a test accuracy, in [0, 1]."""

    name: str
    needs_pairs = False
    """Whether it selects by runs that hold out two domains, beside those that hold out one."""
    command = "train"
    """The script whose runs it selects from."""

    @classmethod
    def run_acc(cls, run_records: Q) -> Acc | None:
        """{"val_acc", "test_acc"} of one run (one hparams_seed), None if it has none."""
        raise NotImplementedError(f"{cls.__name__} must define run_acc")

    @classmethod
    def hparams_accs(cls, records: Q) -> Q:
        """Pairs (accuracies, records) of the runs of a group, best validation accuracy first.

        Of equals the highest hparams_seed is first, as in public DomainBed.
        """
        runs = records.group("args.hparams_seed").sorted(lambda pair: pair[0])
        pairs = [(cls.run_acc(some), some) for _, some in runs]
        found = [pair for pair in pairs if pair[0] is not None]
        return Q(sorted(found, key=lambda pair: pair[0]["val_acc"])[::-1])

    @classmethod
    def sweep_acc(cls, records: Q) -> float | None:
        """The test accuracy of the run that is selected, None where there is none to select."""
        accs = cls.hparams_accs(records)
        return accs[0][0]["test_acc"] if len(accs) else None


def _test_env(records: Q) -> int:
    return records[0]["args"]["test_envs"][0]


def _out_acc_of_training_domains(record: Record, test_env: int) -> float | None:
    """Mean accuracy on the out splits of the domains that were trained on."""
    keys = _out_keys(tuple(record), test_env)
    return mean([record[key] for key in keys]) if keys else None


@functools.lru_cache(maxsize=1024)
def _out_keys(keys: tuple[str, ...], test_env: int) -> list[str]:
    """Of a record's keys the out accuracies of the domains trained on; all of a run have these."""
    envs = itertools.takewhile(lambda env: f"env{env}_in_acc" in keys, itertools.count())
    names = [f"env{env}_out_acc" for env in envs if env != test_env]
    return [name for name in names if name in keys]


@SELECTIONS.register("iid")
class IIDAccuracySelectionMethod(SelectionMethod):
    """The step and run with the best accuracy on the training domains' out splits."""

    name = "training-domain validation set"

    @classmethod
    def run_acc(cls, run_records: Q) -> Acc | None:
        """The best step, the first recorded on ties."""
        records = get_test_records(run_records)
        if not len(records):
            return None
        env, accs = _test_env(records), []
        test_key = f"env{env}_in_acc"
        for record in records:
            val_acc = _out_acc_of_training_domains(record, env)
            if val_acc is not None and test_key in record:
                accs.append({"val_acc": val_acc, "test_acc": record[test_key]})
        return Q(accs).argmax("val_acc") if accs else None


@SELECTIONS.register("loo")
class LeaveOneOutSelectionMethod(SelectionMethod):
    """The hparams that do best on domains held out in turn; needs runs with two test domains."""

    name = "leave-one-domain-out cross-validation"
    needs_pairs = True

    @classmethod
    def _step_acc(cls, records: list[Record]) -> Acc | None:
        """Accuracies at one step, from the run with one test domain and those with two."""
        test_records = [record for record in records if _is_test_record(record)]
        if len(test_records) != 1:
            return None
        (record,) = test_records
        (env,) = record["args"]["test_envs"]
        if f"env{env}_in_acc" not in record:
            return None
        n_envs = next(i for i in itertools.count() if f"env{i}_out_acc" not in record)
        val_accs: dict[int, float] = {}
        for other in records:
            held_out = [i for i in other["args"]["test_envs"] if i != env]
            if len(other["args"]["test_envs"]) == 2 and len(held_out) == 1:
                acc = other.get(f"env{held_out[0]}_in_acc")
                if acc is not None:
                    val_accs[held_out[0]] = acc
        if not val_accs or len(val_accs) < n_envs - 1:
            return None
        val_acc = mean([val_accs[i] for i in sorted(val_accs)])
        return {"val_acc": val_acc, "test_acc": record[f"env{env}_in_acc"]}

    @classmethod
    def run_acc(cls, run_records: Q) -> Acc | None:
        """The best step among those that all runs recorded, the earliest on ties."""
        by_step: dict[int, list[Record]] = {}
        for record in run_records:
            by_step.setdefault(record["step"], []).append(record)
        accs = [acc for step in sorted(by_step) if (acc := cls._step_acc(by_step[step]))]
        return Q(accs).argmax("val_acc") if accs else None


@SELECTIONS.register("oracle")
class OracleSelectionMethod(SelectionMethod):
    """The run with the best accuracy on the test domain's own out split, at its last step."""

    name = "test-domain validation set (oracle)"

    @classmethod
    def run_acc(cls, run_records: Q) -> Acc | None:
        """The last step: no early stopping on the test domain."""
        records = get_test_records(run_records)
        if not len(records):
            return None
        env = _test_env(records)
        last = records.sorted("step")[-1]
        if f"env{env}_out_acc" not in last or f"env{env}_in_acc" not in last:
            return None
        return {"val_acc": last[f"env{env}_out_acc"], "test_acc": last[f"env{env}_in_acc"]}


@SELECTIONS.register("iid_autolr")
class IIDAutoLRAccuracySelectionMethod(SelectionMethod):
    """The run of train_autolr with the best accuracy on the training domains' out splits.

    They are those at the end of the first training, since when to stop was found by them; the test
    accuracy is that at the end of the second, on all samples of the test domain.
    """

    name = "auto lr training-domain validation set"
    command = "train_autolr"

    @classmethod
    def run_acc(cls, run_records: Q) -> Acc | None:
        """The last record of each training; None unless there are both."""
        first = get_test_records(run_records)
        if not len(first):
            return None
        env = _test_env(first)
        key = f"fd_env{env}_in_acc"
        full = run_records.filter(lambda r: r["args"]["test_envs"] == [env] and key in r)
        val_acc = _out_acc_of_training_domains(first.sorted("step")[-1], env)
        if val_acc is None or not len(full):
            return None
        return {"val_acc": val_acc, "test_acc": full.sorted("step")[-1][key]}
