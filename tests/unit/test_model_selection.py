"""Selection methods on records made by hand."""

import itertools
import random
from types import SimpleNamespace

import pytest

from domainbed.engine.run import Run
from domainbed.lib.query import Q
from domainbed.model_selection import (
    SELECTIONS,
    IIDAccuracySelectionMethod,
    LeaveOneOutSelectionMethod,
    OracleSelectionMethod,
    SelectionMethod,
    get_test_records,
)


def record(step, accs, test_envs=(0,), hparams_seed=0):
    """accs: an (in, out) pair for each domain."""
    values = {
        f"env{env}_{s}_acc": a for env, p in enumerate(accs) for s, a in zip(("in", "out"), p)
    }
    return {
        "step": step,
        "args": {"test_envs": list(test_envs), "hparams_seed": hparams_seed},
    } | values


def test_names():
    assert {short: method.name for short, method in SELECTIONS.items()} == {
        "iid": "training-domain validation set",
        "loo": "leave-one-domain-out cross-validation",
        "oracle": "test-domain validation set (oracle)",
        "iid_autolr": "auto lr training-domain validation set",
    }


def test_test_records_have_one_test_domain():
    records = Q([record(0, [], envs) for envs in ((0,), (0, 1), ())])
    assert get_test_records(records) == records[:1]


def test_iid_is_deaf_to_the_test_domain_and_to_runs_with_two():
    method = IIDAccuracySelectionMethod
    records = [
        record(2, [(0.3, 0.0), (0, 0.6), (0, 0.8)]),
        record(1, [(0.2, 0.9), (0, 0.8), (0, 0.6)]),
        record(0, [(0.1, 1.0), (1, 0.5), (1, 0.5)]),
        record(3, [(0.9, 1.0), (1, 1.0), (1, 1.0)], (0, 1)),
    ]
    for some in itertools.permutations(records):  # of equals the first recorded, as public
        first = next(r for r in some if r["step"] in (1, 2))
        best = {"val_acc": pytest.approx(0.7), "test_acc": first["env0_in_acc"]}
        assert method.run_acc(Q(some)) == best
    assert method.run_acc(Q(records[3:])) is None


def test_the_best_weights_are_of_the_step_that_tables_select():
    rng = random.Random(0)
    for n in (3, 6, 10):
        for _ in range(300):
            accs = [(0.0, rng.randint(0, 22) / 22) for _ in range(n)]
            some = [record(step, rng.sample(accs, n)) for step in (0, 1)]
            run = SimpleNamespace(train_envs=range(1, n))
            scores = [Run.id_mean(run, one) for one in some]
            assert IIDAccuracySelectionMethod.run_acc(Q(some))["val_acc"] == max(scores)


def test_oracle_takes_the_last_step_in_any_order():
    records = [record(0, [(0.9, 0.9)]), record(9, [(0.4, 0.3)]), record(99, [(1, 1)], (0, 1))]
    for some in itertools.permutations(records):
        assert OracleSelectionMethod.run_acc(Q(some)) == {"val_acc": 0.3, "test_acc": 0.4}


def loo_runs(steps, seed=0):
    """Runs on three domains; the pair (0, i) has accuracy steps[step][i] on domain i."""
    for step, (test, first, second) in enumerate(steps):
        yield record(step, [(test, 0)] * 3, (0,), seed)
        yield record(step, [(0, 1), (first, 0), (0, 1)], (0, 1), seed)
        yield record(step, [(0, 1), (0, 1), (second, 0)], (2, 0), seed)


def test_leave_one_out_takes_the_mean_over_pairs_at_the_earliest_best_step():
    records = list(loo_runs([(0.1, 0.2, 0.4), (0.5, 0.25, 0.75), (0.9, 0.75, 0.25)]))
    best = {"val_acc": 0.5, "test_acc": 0.5}
    assert LeaveOneOutSelectionMethod.run_acc(Q(records)) == best
    assert LeaveOneOutSelectionMethod.run_acc(Q(records[::-1])) == best


def test_leave_one_out_is_none_where_a_run_or_its_accuracy_is_missing():
    records = list(loo_runs([(0.5, 0.25, 0.75)]))
    for missing in range(3):
        some = [r for i, r in enumerate(records) if i != missing]
        assert LeaveOneOutSelectionMethod.run_acc(Q(some)) is None
    for run, env in enumerate((0, 1, 2)):
        some = [dict(r) for r in records]
        del some[run][f"env{env}_in_acc"]
        assert LeaveOneOutSelectionMethod.run_acc(Q(some)) is None


def test_runs_are_ranked_and_the_order_of_records_decides_nothing():
    runs = [record(0, [(seed / 10, 0.5)], hparams_seed=seed) for seed in range(3)]
    runs.append(record(0, [(0.9, 0.8)], hparams_seed=3))
    runs.append(record(0, [(1, 1)], (0, 1), hparams_seed=4))
    for some in itertools.permutations(runs):
        pairs = OracleSelectionMethod.hparams_accs(Q(some))
        assert [records[0]["args"]["hparams_seed"] for _, records in pairs] == [3, 2, 1, 0]
        assert OracleSelectionMethod.sweep_acc(Q(some)) == 0.9


def test_nothing_to_select():
    for method in SELECTIONS.values():
        assert list(method.hparams_accs(Q([]))) == []
        assert method.sweep_acc(Q([])) is None
    with pytest.raises(NotImplementedError, match="Mine"):
        type("Mine", (SelectionMethod,), {}).run_acc(Q([]))
