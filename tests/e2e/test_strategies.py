"""Every strategy of the paper on small runs, each against its definition."""

import copy
import json
import shutil

import pytest
import torch

from domainbed.engine.evaluator import Evaluator
from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.jobs import Job
from domainbed.lib import weights
from domainbed.runs import BEST, LAST, RunFolder
from domainbed.scripts import sweep
from ratatouille_algorithms import algorithms, averages
from ratatouille_algorithms.trajectory import Trajectory

HPARAMS = {"batch_size": 2, "lr": 1e-3}
FOLLOWED = {"ma_start": 4, "swad_rule": "paper"}


pytestmark = pytest.mark.usefixtures("tiny_datasets", "in_process")


def launch(folder, *names, n_trials=1, more=()):
    arguments = ["launch", "--datasets", "TinyStripes", "--single_test_envs"]
    arguments += ["--skip_confirmation", "--n_hparams", "2", "--n_trials", str(n_trials)]
    arguments += ["--steps", "11", "--checkpoint_freq", "2", "--steps_lp", "4"]
    arguments += ["--aux_hparams", "1", "--aux_datasets", "TinyColumns", "--foundation", "letters"]
    arguments += ["--output_dir", str(folder), "--algorithms", *names]
    recycles = {"InterTraining", "Fusing"} & set(names)
    hparams = {
        **HPARAMS,
        **({"lp_steps": 3} if recycles else {"ma_start": 4, "swad_rule": "paper"}),
    }
    arguments += ["--hparams", json.dumps(hparams), "--command_launcher", "in_process", *more]
    return sweep.main(arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_datasets, in_process):
    """A finished FineTuning sweep, and the (iterates, validation losses) of each of its runs."""
    folder, kept = tmp_path_factory.mktemp("runs"), {}
    add, checkpoint = Trajectory.add, Trajectory.checkpoint

    def keep(self, state):
        kept.setdefault(id(self), (self, [], []))[1].append(copy.deepcopy(dict(state)))
        add(self, state)

    def keep_loss(self, loss):
        kept[id(self)][2].append(loss)
        checkpoint(self, loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trajectory, "add", keep)
        patch.setattr(Trajectory, "checkpoint", keep_loss)
        assert launch(folder, "FineTuning") == 0
    return folder, [(states, losses) for _, states, losses in kept.values()]


def folders(root, algorithm):
    """Run folders by (test env, hparams seed, trial seed)."""
    found = {}
    for path in root.glob("*/run.json"):
        args = json.loads(path.read_text())["args"]
        if args["algorithm"] == algorithm:
            found[args["test_envs"][0], args["hparams_seed"], args["trial_seed"]] = path.parent
    assert found, algorithm
    return found


def needs_of(folder):
    """The folders that a run was made from, by role."""
    options = Options.of_args(RunFolder(folder).description()["args"])
    return {need.role: need.job.folder for need in Job(options.identity(), folder.parent).needs}


def record_of(folder):
    (record,) = RunFolder(folder).records()
    return record


def accs_of(folder):
    return {key: value for key, value in record_of(folder).items() if key.endswith("acc")}


def rebuilt(folder):
    """A run and its network."""
    run = Run(Options.of_args(RunFolder(folder).description()["args"]), {})
    return run, run.build()


def mean(states):
    return {
        name: torch.stack([s[name].double() for s in states]).mean(0).float() for name in states[0]
    }


def assert_equal(found, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


def test_averages_along_a_run_are_those_of_all_its_iterates(runs, swad_range):
    folder, followed = runs
    assert launch(folder, "MovingAverage", "SWAD") == 0
    moving, swad = folders(folder, "MovingAverage"), folders(folder, "SWAD")
    members = folders(folder, "FineTuning")
    assert len(followed) == len(members) == 6
    for states, losses in followed:
        assert len(states) == 11 and len(losses) == 6
        (key,) = [
            key
            for key, member in members.items()
            if all(torch.equal(weights.read(member / LAST)[0][n], t) for n, t in states[-1].items())
        ]
        assert_equal(weights.read(moving[key] / LAST)[0], mean(states[4:]))
        first, last = swad_range(losses, 3, 6, 0.3)
        expected = states[max(0, 2 * first - 1) : 2 * last + 1]
        assert_equal(weights.read(swad[key] / LAST)[0], mean(expected))
        assert record_of(swad[key])["n_iterates"] == len(expected)


def test_wise_is_the_interpolation_that_validates_best(runs):
    folder, _ = runs
    assert launch(folder, "WiSE") == 0
    for key, path in folders(folder, "WiSE").items():
        needs, (run, network) = needs_of(path), rebuilt(path)
        assert needs["member"].path == folders(folder, "FineTuning")[key]
        start, end = (weights.read(needs[role] / BEST)[0] for role in ("probe", "member"))
        mixtures = [
            {n: torch.lerp(start[n].double(), end[n].double(), a).float() for n in end}
            for a in averages.ALPHAS
        ]
        scores = []
        for mixture in mixtures:
            weights.load_matching(network, mixture, "mixture")
            scores.append(run.id_score(run.evaluator.evaluate(network)))
        best = max(range(len(scores)), key=lambda i: (scores[i], i))
        assert record_of(path)["wise_alpha"] == averages.ALPHAS[best]
        assert_equal(weights.read(path / LAST)[0], mixtures[best])


def test_wise_takes_a_fixed_coefficient(runs):
    folder, _ = runs
    assert launch(folder, "WiSE", more=("--wise_alpha", "0.5")) == 0
    assert {record_of(p)["wise_alpha"] for p in folders(folder, "WiSE").values()} >= {0.5}
    assert launch(folder, "WiSE", more=("--wise_alpha", "1.5")) == 2


def test_an_ensemble_predicts_the_mean_of_its_members_probabilities(runs):
    folder, _ = runs
    assert launch(folder, "Ensemble_FineTuning") == 0
    members = folders(folder, "FineTuning")
    for (env, _, _), path in folders(folder, "Ensemble_FineTuning").items():
        assert not (path / LAST).exists()
        run, network = rebuilt(path)
        x, y = run.environments[env].tensors
        total = torch.zeros(len(x), run.dataset.num_classes)
        for seed in (0, 1):
            state, _ = weights.read(members[env, seed, 0] / BEST)
            weights.load_matching(network, state, "member")
            with torch.no_grad():
                total += network.eval().predict(x).softmax(1)
        right = total.argmax(1).eq(y).float()
        for split, keys in (("in", run.splits[env].in_), ("out", run.splits[env].out)):
            expected = right[torch.tensor(keys)].mean().item()
            assert record_of(path)[f"env{env}_{split}_acc"] == pytest.approx(expected, abs=1e-6)


def test_memory_sets_how_many_are_measured_at_a_time_and_moves_no_number(
    runs, tmp_path, monkeypatch
):
    names, outputs, found = ("WiSE", "Ensemble_FineTuning"), Evaluator.outputs, []
    for memory, expected in (("0", {1}), ("1", {1, 2, 11})):
        folder, sizes = shutil.copytree(runs[0], tmp_path / memory), set()
        for path in folder.glob("*/run.json"):
            if json.loads(path.read_text())["args"]["algorithm"] in names:
                shutil.rmtree(path.parent)

        def spied(self, networks, *args, sizes=sizes):
            sizes.add(len(networks))
            return outputs(self, networks, *args)

        monkeypatch.setattr(Evaluator, "outputs", spied)
        assert launch(folder, *names, more=("--memory", memory)) == 0
        assert sizes == expected
        paths = [path for name in names for path in folders(folder, name).values()]
        assert len(paths) == 9
        found.append({path.name: accs_of(path) for path in paths})
    assert found[0] == found[1]


def test_a_dagger_of_one_trial_is_uniform(runs):
    folder, _ = runs
    assert launch(folder, "DiWA_uniform", "DiWA_dagger") == 0
    uniform = folders(folder, "DiWA_uniform")
    for key, path in folders(folder, "DiWA_dagger").items():
        one, two = (weights.read(p / LAST)[0] for p in (path, uniform[key]))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_dagger_of_two_trials_is_the_mean_of_all_members(runs, tmp_path):
    assert launch(tmp_path, "DiWA_dagger", n_trials=2) == 0
    members, daggers = folders(tmp_path, "FineTuning"), folders(tmp_path, "DiWA_dagger")
    assert len(members) == 12 and len(daggers) == 3
    for (env, _, _), path in daggers.items():
        some = [weights.read(p / BEST)[0] for key, p in members.items() if key[0] == env]
        assert_equal(weights.read(path / LAST)[0], mean(some))
        assert record_of(path)["n_members"] == 4
    assert launch(tmp_path, "DiWA_dagger", n_trials=2, more=("--probe_per_trial",)) == 2


def test_fusing_one_ingredient_alone_is_inter_training_from_it(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(algorithms, "coefficients", lambda n, *_: [0.0] * (n - 1) + [1.0])
    monkeypatch.setattr("domainbed.jobs.run_seed", lambda args: 5)  # the same batches for both
    assert launch(tmp_path, "InterTraining", "Fusing") == 0
    fusing, inter = folders(tmp_path, "Fusing"), folders(tmp_path, "InterTraining")
    for env in range(3):
        one, two = (weights.read(runs[env, 1, 0] / LAST)[0] for runs in (fusing, inter))
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_coefficients_of_fusing_sum_to_one_and_spread_with_their_range():
    assert algorithms.coefficients(4, 0.0, 7) == [0.25] * 4
    for fusing_range in (1.0, 4.0):
        kappas = algorithms.coefficients(5, fusing_range, 7)
        assert sum(kappas) == pytest.approx(1)
        assert max(kappas) / min(kappas) <= torch.tensor(fusing_range).exp()
    assert algorithms.coefficients(5, 4.0, 7) == kappas != algorithms.coefficients(5, 4.0, 8)


def test_strategies_over_finished_runs_train_nothing(runs, capsys):
    folder, _ = runs
    names = ["MovingAverage", "SWAD", "WiSE", "Ensemble_FineTuning", "DiWA_greedy", "DiWA_dagger"]
    arguments = ["plan", "--datasets", "TinyStripes", "--single_test_envs", "--n_hparams", "2"]
    arguments += ["--n_trials", "1", "--steps", "11", "--checkpoint_freq", "2", "--steps_lp", "4"]
    arguments += [
        "--foundation",
        "letters",
        "--hparams",
        json.dumps({**HPARAMS, **FOLLOWED}),
    ]
    capsys.readouterr()
    assert sweep.main([*arguments, "--output_dir", str(folder), "--algorithms", *names]) == 0
    assert "0 to train" in capsys.readouterr().out
