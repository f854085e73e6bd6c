"""A sweep that starts from a pool: no auxiliary run is trained, and leakage is kept out."""

import json

import pytest
from safetensors.torch import save_file

from domainbed.lib import stored, weights
from domainbed.runs import LAST, RunFolder
from domainbed.scripts import sweep, train
from ratatouille_algorithms import pool as pools
from ratatouille_algorithms.scripts import pool

pytestmark = pytest.mark.usefixtures("tiny_datasets", "in_process")


@pytest.fixture(scope="module")
def mine(tmp_path_factory, tiny_datasets):
    """A pool of three: two saw TinyColumns, of one nobody knows what it saw."""
    folder = tmp_path_factory.mktemp("pool")
    for seed in (0, 1):
        probe = ["--what_is_trainable", "classifier", "--output_dir", str(folder / f"lp{seed}")]
        words = ["--dataset", "TinyColumns", "--algorithm", "FineTuning", "--foundation", "letters"]
        words += ["--test_envs", "-1", "--hparams", '{"batch_size": 2}', "--steps", "3"]
        words += ["--hparams_seed", str(seed)]
        assert train.main([*words, *probe]) == 0
        start = ["--path_init", str(folder / f"lp{seed}"), "--output_dir", str(folder / f"r{seed}")]
        assert train.main([*words, *start]) == 0
        add = ["add", str(folder / f"r{seed}"), "--pool", str(folder / "pool")]
        assert pool.main([*add, "--name", f"columns{seed}", "--licence", "MIT"]) == 0
    state, _ = weights.read(folder / "r0" / LAST)
    first = {tensor.data_ptr(): name for name, tensor in reversed(state.items())}
    save_file({name: state[name] for name in first.values()}, folder / "found.safetensors")
    add = ["add", str(folder / "found.safetensors"), "--pool", str(folder / "pool")]
    add += ["--name", "found", "--backbone", "mnist_cnn", "--foundation", "letters"]
    add += ["--input_shape", "1", "28", "28"]
    assert pool.main(add) == 0
    return folder / "pool"


def launch(folder, pool_dir, *more, dataset="TinyStripes"):
    words = ["launch", "--datasets", dataset, "--output_dir", str(folder), "--n_trials", "1"]
    words += ["--foundation", "letters", "--single_test_envs", "--skip_confirmation"]
    words += ["--command_launcher", "in_process", "--steps", "3", "--aux_dir", str(pool_dir)]
    hparams = '{"batch_size": 2, "lp_steps": 1}'
    return sweep.main([*words, "--n_hparams", "3", "--hparams", hparams, *more])


def started_from(folder, algorithm):
    """hparams_seed -> sha256 of the auxiliary weights that the runs on test env 0 started from."""
    found = {}
    for path in folder.glob("*/run.json"):
        run = RunFolder(path.parent).description()
        if run["args"]["algorithm"] == algorithm and run["args"]["test_envs"] == [0]:
            initial = run["provenance"]["initial"]
            found[run["args"]["hparams_seed"]] = [
                entry["run"] for entry in initial if entry["role"] == "auxiliary"
            ]
    return found


def test_ingredients_take_turns_and_nothing_auxiliary_is_trained(tmp_path, mine, capsys):
    assert launch(tmp_path, mine, "--algorithms", "Ratatouille_uniform", "Fusing") == 0
    assert started_from(tmp_path, "InterTraining") == {0: [], 1: ["columns0"], 2: ["columns1"]}
    both = ["columns0", "columns1"]
    assert started_from(tmp_path, "Fusing") == dict.fromkeys(range(3), both)
    assert not (tmp_path / "aux").exists() and not list(mine.glob("*/results.jsonl"))
    seen = {
        frozenset(RunFolder(path.parent).description()["provenance"]["datasets_seen"])
        for path in tmp_path.glob("*/run.json")
    }
    assert seen == {frozenset({"TinyStripes"}), frozenset({"TinyStripes", "TinyColumns"})}


def test_an_unknown_past_and_a_choice_are_asked_for(tmp_path, mine):
    more = ("--algorithms", "InterTraining")
    choice = ("--ingredients", "found", "columns1", "--allow_unknown_provenance")
    assert launch(tmp_path, mine, *more, *choice) == 0
    assert started_from(tmp_path, "InterTraining") == {0: [], 1: ["found"], 2: ["columns1"]}
    args = json.loads(next(tmp_path.glob("*/run.json")).read_text())["args"]
    labels = [one.label for one in pools.get(mine, ["found", "columns1"])]
    assert args["ingredients"] == labels and args["allow_unknown_provenance"] is True
    pasts = {}
    for path in tmp_path.glob("*/run.json"):
        run = RunFolder(path.parent).description()
        if run["args"]["algorithm"] == "InterTraining":
            pasts[run["args"]["hparams_seed"]] = run["provenance"]["datasets_seen"]
    assert pasts == {0: ["TinyStripes"], 1: None, 2: ["TinyColumns", "TinyStripes"]}
    unknown = next(
        path.parent
        for path in tmp_path.glob("*/model_best.safetensors")
        if stored.read_header(path)["provenance"]["datasets_seen"] is None
    )
    assert pool.main(["add", str(unknown), "--pool", str(tmp_path / "new"), "--name", "u"]) == 0
    assert pools.get(tmp_path / "new", ["u"])[0].card.datasets_seen is None


@pytest.mark.parametrize(
    "more, dataset, told",
    [
        ((), "TinyColumns", "has seen TinyColumns"),
        (("--ingredients", "found"), "TinyStripes", "unknown (--allow_unknown_provenance)"),
        (("--ingredients", "column"), "TinyStripes", "Did you mean 'columns1' or"),
        (("--aux_datasets", "TinyColumns"), "TinyStripes", "leave it out"),
        (("--aux_hparams", "2"), "TinyStripes", "leave it out"),
    ],
)
def test_what_cannot_be_recycled_is_told_before_work(tmp_path, mine, capsys, more, dataset, told):
    assert launch(tmp_path, mine, "--algorithms", "InterTraining", *more, dataset=dataset) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert told in line and not list(tmp_path.glob("*/run.json"))


def test_an_ingredient_that_changed_since_is_refused(tmp_path, mine, capsys):
    args = ["--dataset", "TinyStripes", "--algorithm", "InterTraining", "--aux_dir", str(mine)]
    args += ["--ingredients", "columns0@000000000000", "--output_dir", str(tmp_path / "run")]
    args += ["--hparams", '{"batch_size": 2}', "--foundation", "letters", "--steps", "1"]
    args += ["--path_init", str(mine.parent / "lp0"), "--hparams_seed", "1"]
    assert train.main(args) == 2
    assert "but this job is of columns0@000000000000" in capsys.readouterr().err
