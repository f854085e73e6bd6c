"""Every analysis of a tiny sweep that was moved, against the records of its runs."""

import csv
import json
import shlex
import shutil

import pytest

from domainbed.jobs import Job, make_args_list, with_needs
from domainbed.lib import stored
from domainbed.runs import BEST, RunFolder
from domainbed.scripts import train
from ratatouille_algorithms.analysis.members import Limits, find
from ratatouille_algorithms.predictions import CACHE
from ratatouille_algorithms.scripts import analyze

pytestmark = pytest.mark.slow

NAMES = ["FineTuning", "InterTraining", "Fusing", "Ratatouille_uniform"]
FIGURES = list(analyze.FIGURES)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Four runs of each algorithm that leave out domain 0, half of them recycled; then moved."""
    made = tmp_path_factory.mktemp("made") / "runs"
    hparams = json.dumps({"batch_size": 2, "lr": 1e-3, "lp_steps": 2})
    given = {"checkpoint_freq": 3, "foundation": "letters", "steps_lp": 5}
    given |= {"aux_datasets": ["InkDigits"], "aux_hparams": 1}
    args_list = make_args_list(
        1, ["RotatedDigits"], NAMES, 0, 4, 6, None, "domain_generalization", 0.2, True, hparams,
        **given,
    )  # fmt: skip
    wanted = [Job(args, str(made)) for args in args_list if args["test_envs"] == [0]]
    for job in with_needs(wanted):
        keep = ["--save_model_every_checkpoint"] * (job.train_args["algorithm"] == "FineTuning")
        assert train.main([*shlex.split(job.command_str)[3:], *keep]) == 0
    moved = tmp_path_factory.mktemp("moved") / "runs"
    shutil.move(made, moved)
    return moved


@pytest.fixture(scope="module")
def analysed(sweep):
    """The sweep, and where its analyses are."""
    out = sweep / "analysis"
    small = ["--n_subsets", "2", "--n_pairs", "2", "--grid", "3"]
    assert analyze.main(["--input_dir", str(sweep), *small]) == 0
    return sweep, out


def read(out, figure):
    with open(out / f"{figure}.csv", newline="") as file:
        return list(csv.DictReader(file))


def where(rows, **wanted):
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert found, wanted
    return found


def run_of(sweep, algorithm, seed=0):
    for path in sweep.glob("*/run.json"):
        args = json.loads(path.read_text())["args"]
        if (args["algorithm"], args["hparams_seed"]) == (algorithm, seed):
            return RunFolder(path.parent)
    raise AssertionError((algorithm, seed))


def test_every_analysis_is_a_table_and_two_drawings(analysed):
    _, out = analysed
    assert {path.name for path in out.iterdir()} == {
        f"{figure}.{suffix}" for figure in FIGURES for suffix in ("csv", "png", "pdf")
    }
    for figure in FIGURES:
        rows = read(out, figure)
        assert {row["data"] for row in rows} == {"id", "ood"}
        assert {row["dataset"] for row in rows} == {"RotatedDigits"}
        assert {row["test_domain"] for row in rows} == {"0"}
        assert all(0 <= float(row["acc"]) <= 1 for row in rows if "acc" in row)


def test_ends_of_segments_are_the_runs_themselves(analysed):
    sweep, out = analysed
    rows = where(read(out, "connectivity"), data="id")
    for row in where(rows, when="after", coefficient="0.0"):
        algorithm, seed = row["a"].split()
        header = stored.read_header(run_of(sweep, algorithm, int(seed)) / BEST)
        assert float(row["acc"]) == pytest.approx(header["id_acc"], abs=1e-6)
    first = where(rows, when="before", init_a="foundation", coefficient="0.0")[0]
    probe = next(sweep.glob("lp/*"))
    assert float(first["acc"]) == pytest.approx(stored.read_header(probe / BEST)["id_acc"])
    assert {(row["init_a"], row["init_b"]) for row in rows} == {("foundation", "InkDigits")}
    assert len(where(rows, when="after")) == 2 * 11 and rows[0]["of_pairs"] == "4"
    assert len(where(rows, when="before")) == 1 * 11


def test_the_average_of_all_members_is_what_the_sweep_recorded(analysed):
    sweep, out = analysed
    (record,) = run_of(sweep, "Ratatouille_uniform").records()
    accs = [record[f"env{env}_out_acc"] for env in (1, 2, 3)]
    expected = {"ood": record["env0_all_acc"], "id": sum(accs) / 3}
    for data, acc in expected.items():
        rows = where(read(out, "scaling"), kind="members", algorithm="InterTraining", data=data)
        assert float(where(rows, x="4")[0]["acc"]) == pytest.approx(acc)
        robust = where(read(out, "robust"), algorithm="InterTraining", data=data)
        assert float(where(robust, coefficient="1.0")[0]["acc"]) == pytest.approx(acc)
        mixtures = where(read(out, "coefficients"), kind="mu", data=data, coefficient="0.5")
        assert [float(row["acc"]) for row in mixtures] == pytest.approx([acc, acc])


def test_scaling_covers_initialisations_and_steps(analysed):
    _, out = analysed
    rows = where(read(out, "scaling"), data="ood")
    steps = where(rows, kind="steps")
    assert {row["x"] for row in steps} == {"0", "3", "5"}
    assert {row["algorithm"] for row in steps} == {"FineTuning"}
    inits = where(rows, kind="inits")
    counts = {(row["x"], row["what"], row["n_members"]) for row in inits}
    both = {("2", "average", "4"), ("2", "equally many", "2")}
    assert counts == {("1", "average", "2"), ("1", "equally many", "2")} | both


def test_pairs_and_their_gains(analysed):
    _, out = analysed
    pairs = where(read(out, "diversity"), data="ood", kind="pair")
    assert len(pairs) == 8 * 7 // 2
    assert {row["init"] for row in pairs} == {"same", "different"}
    assert sum(row["gain"] != "" for row in pairs) == 2 + 2
    for row in pairs:
        same = row["init_a"] == row["init_b"]
        assert row["init"] == ("same" if same else "different")
        if row["n_simul"] != "0":
            ratio = int(row["n_diff"]) / int(row["n_simul"])
            assert float(row["ratio_error"]) == pytest.approx(ratio)


def test_coefficients_of_fusing_sum_to_one(analysed):
    _, out = analysed
    rows = where(read(out, "coefficients"), kind="kappa", data="id")
    for run in {row["run"] for row in rows}:
        shares = {row["init"]: float(row["coefficient"]) for row in where(rows, run=run)}
        assert set(shares) == {"foundation", "InkDigits"}
        assert sum(shares.values()) == pytest.approx(1)


def test_predictions_are_kept_until_the_weights_change(analysed, tmp_path):
    sweep, _ = analysed
    copy = shutil.copytree(sweep, tmp_path / "runs")
    (target,) = find(copy, tmp_path)
    n_networks = []
    target.on_network = lambda: n_networks.append(1)
    accs = {member.name: target.acc(member) for member in target.members}
    assert not n_networks
    one, two = target.members[:2]
    before = (one.folder / CACHE).read_bytes()
    shutil.copy(two.weights, one.weights)
    (target,) = find(copy, tmp_path)
    assert target.acc(target.members[0]) == accs[two.name]
    assert (one.folder / CACHE).read_bytes() != before


def test_what_is_missing_is_named_and_the_rest_goes_on(analysed, tmp_path, capsys):
    sweep, _ = analysed
    lone = tmp_path / "runs"
    for seed in (0, 1):
        folder = run_of(sweep, "FineTuning", seed).path
        shutil.copytree(folder, lone / folder.name)
    out = tmp_path / "out"
    arguments = ["--input_dir", str(lone), "--output_dir", str(out), "--grid", "2"]
    assert analyze.main(arguments) == 0
    said = capsys.readouterr().err.splitlines()
    assert {line.split(":")[0] for line in said} == {
        "connectivity", "plane", "robust", "coefficients",
    }  # fmt: skip
    assert any("the probe run" in line and "is not in" in line for line in said)
    drawn = {path.name for path in out.iterdir()}
    assert drawn == {f"{f}.{s}" for f in ("diversity", "scaling") for s in ("csv", "png", "pdf")}
    assert analyze.main([*arguments, "--figures", "plane", "connectivity"]) == 2
    assert "any of the figures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--datasets", "PACS"], "none of them"),
        (["--test_envs", "3"], "none of them"),
        (["--n_pairs", "0"], "--n_pairs"),
        (["--grid", "1"], "--grid"),
        (["--input_dir", "nowhere"], "not a folder"),
    ],
)
def test_wrong_input_is_told_in_one_line(sweep, more, reason, capsys):
    assert analyze.main(["--input_dir", str(sweep), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line


def test_two_sweeps_in_one_folder_are_refused(sweep, tmp_path, capsys):
    folder = run_of(sweep, "FineTuning").path
    for name in ("one", "two"):
        shutil.copytree(folder, tmp_path / name)
    assert analyze.main(["--input_dir", str(tmp_path)]) == 2
    assert "keep one sweep in a folder" in capsys.readouterr().err


def test_scratch_files_are_given_back(sweep, tmp_path):
    from ratatouille_algorithms.analysis import connectivity

    targets = find(sweep, tmp_path)
    connectivity.table(targets, Limits(pairs=1))
    assert not list(tmp_path.iterdir())
