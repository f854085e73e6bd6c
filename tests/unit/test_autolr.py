"""Training twice: the schedule that is found, what is recorded, and how it is selected."""

import json
import math

import pytest
import torch
from torch.utils.data import TensorDataset

from domainbed import hparams_registry, tables
from domainbed.algorithms import get_algorithm_class
from domainbed.engine.autolr import Plateau, scale_learning_rates
from domainbed.engine.loading import Source, Stream
from domainbed.engine.run import Run
from domainbed.lib import weights
from domainbed.lib.doubts import mixtures
from domainbed.lib.query import Q
from domainbed.model_selection import SELECTIONS
from domainbed.scripts import collect_results, list_top_hparams, train, train_autolr

AUTO = SELECTIONS["iid_autolr"]


def factors(losses):
    plateau = Plateau()
    return [plateau(loss) for loss in losses]


def test_the_second_loss_in_a_row_that_is_no_better_divides_the_rate_by_ten():
    assert factors([1.0, 0.9, 0.95, 0.8, 0.85, 0.9]) == pytest.approx([1, 1, 1, 1, 1, 0.1])
    # by less than 0.01 % is no better, nor is what is not a number
    assert factors([1.0, 0.99995, 0.99995]) == pytest.approx([1, 1, 0.1])
    assert factors([1.0, math.nan, math.inf]) == pytest.approx([1, 1, 0.1])


def test_in_place_of_the_third_division_training_is_over():
    # validation losses and learning rates of a run of the public script, from 5e-4
    losses = [0.70623, 0.69278, 0.70640, 0.92291, 0.88508, 0.81157, 0.80563, 0.80017]
    rates = [5e-4, 5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6, 0]
    assert [5e-4 * factor for factor in factors(losses)] == pytest.approx(rates)


def test_rates_are_scaled_from_where_they_began():
    hparams = hparams_registry.default_hparams("DANN", "Debug28")
    dann = get_algorithm_class("DANN")((3, 28, 28), 2, 2, {**hparams, "lr_d": 0.5})

    def rates():
        return [o.param_groups[0]["lr"] for o in (dann.disc_opt, dann.gen_opt)]

    before = rates()
    assert before[0] == 0.5
    for factor in (0.1, 0.01):
        scale_learning_rates(dann, factor)
        assert rates() == pytest.approx([factor * lr for lr in before])


def run(folder, *words):
    base = ["--dataset", "Debug28", "--steps", "30", "--checkpoint_freq", "2"]
    return train_autolr.main([*base, *map(str, words), "--output_dir", str(folder)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ERM++ whose loss stalls at once, since its learning rate is tiny."""
    folder = tmp_path_factory.mktemp("autolr") / "run"
    hparams = '{"batch_size": 4, "linear_steps": 3, "lr": 1e-12, "linear_lr": 1e-12}'
    assert run(folder, "--algorithm", "ERMPlusPlus", "--hparams", hparams, "--auto_lr") == 0
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_both_trainings_have_the_same_steps_and_rates_and_the_second_holds_nothing_out(records):
    first = [r for r in records if r["args"]["holdout_fraction"] == 0.2]
    second = [r for r in records if r["args"]["holdout_fraction"] == 0.0]
    assert first + second == records
    rates = {0: 1e-12, 2: 1e-12, 4: 1e-12, 6: 1e-12, 8: 1e-13, 10: 1e-13, 12: 1e-14, 14: 1e-14}
    for some in (first, second):
        assert {r["step"]: r["lr"] for r in some} == pytest.approx(rates)
    assert all(f"env{i}_{s}_acc" in r for r in first for i in range(3) for s in ("in", "out"))
    expected = {f"fd_env{i}_in_acc" for i in range(3)}
    assert all({k for k in r if k.endswith("_acc")} == expected for r in second)
    assert all((r["fd_env0_in_acc"] * 16) % 1 == 0 for r in second)  # the whole domain


def test_the_second_trainings_weights_are_the_last(folder):
    _, last = weights.read(folder / "model.safetensors")
    _, best = weights.read(folder / "model_best.safetensors")
    assert last["args"]["holdout_fraction"] == 0 and last["step"] == 14
    assert best["args"]["holdout_fraction"] == 0.2
    description = json.loads((folder / "run.json").read_text())
    assert description["args"]["holdout_fraction"] == 0.2 and description["args"]["auto_lr"]
    assert run(folder, "--algorithm", "ERMPlusPlus", "--hparams", "{}") == 2  # another run: moved
    assert (folder.parent / "run.1" / "done").exists()


def test_both_trainings_start_from_the_same_weights(tmp_path):
    hparams = '{"batch_size": 4, "lr": 1e-30}'
    assert run(tmp_path / "a", "--hparams", hparams, "--steps", 1) == 0
    last, _ = weights.read(tmp_path / "a" / "model.safetensors")
    first, _ = weights.read(tmp_path / "a" / "model_best.safetensors")
    for name in last:
        torch.testing.assert_close(last[name], first[name])


def test_training_that_never_stalls_takes_all_its_steps_twice(tmp_path):
    assert run(tmp_path / "a", "--hparams", '{"batch_size": 4}', "--steps", 4) == 0
    lines = (tmp_path / "a" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 3, 0, 2, 3]


def test_no_sample_is_drawn_twice_in_a_pass():
    x = torch.arange(11)
    sources = [Source(name, TensorDataset(x, x), list(range(11))) for name in "ab"]
    stream = Stream(sources, batch_size=3, seed=0, replacement=False)
    passes = [[stream[step][0][1].tolist() for step in range(n, n + 3)] for n in (0, 3, 6)]
    assert all(len({y for batch in one for y in batch}) == 9 for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert stream[0][0][1].tolist() != stream[0][1][1].tolist()  # each domain has its own order
    assert stream[4][0][1].tolist() == passes[1][1]  # a resumed run draws the same


def test_train_draws_with_replacement_and_train_autolr_without(monkeypatch, tmp_path):
    asked = []
    stream = Run.stream
    monkeypatch.setattr(
        Run, "stream", lambda self, *given: asked.append(given) or stream(self, *given)
    )
    words = ["--hparams", '{"batch_size": 4}', "--steps", 1]
    assert run(tmp_path / "a", *words) == 0
    base = ["--dataset", "Debug28", "--output_dir", str(tmp_path / "b"), *map(str, words)]
    assert train.main(base) == 0
    assert asked == [(False,), (False,), (True,)]


@pytest.mark.parametrize(
    "words, what",
    [
        (["--holdout_fraction", "0"], "--holdout_fraction 0.0"),
        (["--holdout_fraction", "0.01"], "--holdout_fraction 0.01"),
        (["--algorithm", "SWAD"], "SWAD"),
    ],
)
def test_what_cannot_be_trained_twice_is_told(tmp_path, capsys, words, what):
    assert run(tmp_path / "a", "--hparams", '{"batch_size": 2}', *words) == 2
    error = capsys.readouterr().err
    assert what in error and error.count("\n") == 1


def test_the_command_line_is_that_of_train_and_one_more():
    def names(script):
        return {action.dest for action in script.build_parser()._actions}

    assert names(train_autolr) == names(train) | {"auto_lr"}


def first(step, out, hparams_seed=0, test_envs=(0,), test=0.1):
    accs = {"env0_in_acc": test, "env0_out_acc": 1.0, "env1_in_acc": 0.0, "env1_out_acc": out}
    return {"step": step, "args": _args(hparams_seed, test_envs, 0.2), **accs}


def second(step, acc, hparams_seed=0, test_envs=(0,)):
    accs = {"fd_env0_in_acc": acc, "fd_env1_in_acc": 1 - acc}
    return {"step": step, "args": _args(hparams_seed, test_envs, 0.0), **accs}


def _args(hparams_seed, test_envs, holdout_fraction):
    return {
        "dataset": "Two", "algorithm": "ERM", "trial_seed": 0, "test_envs": list(test_envs),
        "hparams_seed": hparams_seed, "holdout_fraction": holdout_fraction,
    }  # fmt: skip


RUN = [first(0, 0.9), first(2, 0.7), second(0, 0.4), second(2, 0.3)]


def test_a_run_is_selected_by_the_end_of_its_first_training_and_tested_at_that_of_its_second():
    assert AUTO.run_acc(Q(RUN)) == {"val_acc": 0.7, "test_acc": 0.3}
    assert AUTO.run_acc(Q(RUN[::-1])) == {"val_acc": 0.7, "test_acc": 0.3}
    other = [first(0, 0.8, 1), first(4, 0.75, 1), second(4, 0.6, 1)]
    assert AUTO.sweep_acc(Q([*RUN, *other])) == 0.6
    assert AUTO.sweep_acc(Q([*RUN, *other, second(9, 1.0, 0, (0, 1))])) == 0.6


def test_a_run_without_its_second_training_is_not_selected():
    for some in (RUN[:2], RUN[2:], [first(0, 0.5, test_envs=(0, 1))], []):
        assert AUTO.run_acc(Q(some)) is None


def test_other_methods_see_the_first_training_alone_and_nothing_is_called_mixed():
    for name in ("iid", "oracle"):
        assert SELECTIONS[name].run_acc(Q(RUN)) == SELECTIONS[name].run_acc(Q(RUN[:2])) is not None
    pairs = [first(2, 0.5, test_envs=(0, 1), test=0.2) | {"env1_in_acc": 0.6}]
    with_pairs, without = Q([*RUN, *pairs]), Q([*RUN[:2], *pairs])
    loo = SELECTIONS["loo"]
    assert loo.run_acc(with_pairs) == loo.run_acc(without) == {"val_acc": 0.6, "test_acc": 0.1}
    assert mixtures(RUN) == []
    table, *_ = tables.build(Q(RUN[::-1]), AUTO)
    assert table.columns == ["0", "1", "Avg"]


def test_collect_results_shows_it(folder, capsys):
    assert collect_results.main(["--input_dir", str(folder.parent), "--auto_lr"]) == 0
    shown = capsys.readouterr()
    assert "model selection method: auto lr training-domain validation set" in shown.out
    assert "ERMPlusPlus" in shown.out and shown.err == ""


def test_list_top_hparams_lists_it(folder, records, capsys):
    words = ["--dataset", "Debug28", "--algorithm", "ERMPlusPlus", "--test_env", "0"]
    assert list_top_hparams.main(["--input_dir", str(folder.parent), *words]) == 0
    *_, listed = capsys.readouterr().out.split("Model selection: ")
    assert listed.startswith("auto lr training-domain validation set\n  trial_seed 0")
    assert f"test_acc {records[-1]['fd_env0_in_acc']:.4f}" in listed
