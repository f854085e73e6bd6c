"""The leaderboard: ranks, marks, differences, notes, published rows, all formats."""

import csv
import io
import subprocess
import sys

import pytest
from sweep_folders import record, write_run, write_trials

from domainbed.algorithms import ALGORITHMS
from domainbed.lib.query import Q
from domainbed.registry import InputError
from domainbed.tables import Cell
from ratatouille_algorithms import leaderboard
from ratatouille_algorithms.deviations import deviations, network_of
from ratatouille_algorithms.scripts.leaderboard import main
from ratatouille_algorithms.sheets import RENDERERS


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    write_trials(root, "ERM", [0.50, 0.60])
    write_trials(root, "CORAL", [0.70, 0.90])
    write_trials(root, "VREx", [0.80, 0.78])
    return root


def sheet_of(sweep, **options):
    records, _ = leaderboard.read([sweep])
    return leaderboard.build(records, ["iid"], **options)[0]


def texts(sheet):
    return {row[0].text: [item.text for item in row[1:]] for row in sheet.rows}


def test_a_row_has_mean_error_rank_and_differences(sweep):
    rows = texts(sheet_of(sweep))
    # error: population standard deviation over two trials, divided by the root of 2
    assert rows["ERM"] == ["55.0 ± 3.5", "55.0", "3.0", "+0.0", "-25.0"]
    assert rows["CORAL"] == ["80.0 ± 7.1", "80.0", "1.0", "+25.0", "+0.0"]
    assert rows["VREx"] == ["79.0 ± 0.7", "79.0", "2.0", "+24.0", "-1.0"]


def test_rows_are_in_the_order_of_tables(sweep):
    names = list(texts(sheet_of(sweep)))
    assert names == sorted(names, key=ALGORITHMS.index) and len(names) == 3


def test_best_and_those_within_error_of_it_are_marked(sweep):
    marks = {row[0].text: row[1].mark for row in sheet_of(sweep).rows}
    assert marks == {"ERM": "", "CORAL": "best", "VREx": "near"}


def test_a_single_trial_has_no_error_to_be_within():
    a, b = Cell(50.0, 0.0, 1), Cell(50.05, 0.0, 1)
    assert leaderboard.within_error(a, b) is None
    assert leaderboard.marks_of([a, b]) == ["", "best"]
    assert leaderboard.marks_of([a]) == [""]
    assert leaderboard.within_error(Cell(50, 3, 3), Cell(55, 4, 3)) is True
    assert leaderboard.within_error(Cell(50, 3, 3), Cell(55.1, 4, 3)) is False


def test_equal_rows_share_a_rank_and_a_missing_cell_has_none():
    columns = [
        [Cell(1.0), Cell(2.0), Cell(2.0), Cell(3.0)],
        [Cell(4.0), Cell(3.0), None, Cell(1.0)],
    ]
    assert leaderboard.mean_ranks(columns) == [2.5, 2.25, None, 2.0]


def test_means_of_the_same_counts_are_equal_whatever_their_rounding():
    a, b = (100 * (0.1 + 0.2 + 0.3) / 3, 100 * (0.3 + 0.2 + 0.1) / 3)
    assert a != b
    cells = [Cell(a, 0.1, 3), Cell(b, 0.1, 3), Cell(a - 1e-6, 0.1, 3)]
    assert leaderboard.marks_of(cells) == ["best", "best", "near"]
    assert leaderboard.mean_ranks([cells]) == [1.5, 1.5, 3.0]


def test_the_whole_domain_is_recorded_or_put_together_from_both_splits():
    single = record(0, [(0.5, 1.0), (0.9, 0.9)])
    average = {**record(0, [(0.5, 1.0), (0.9, 0.9)]), "env0_all_acc": 0.7}
    adapted = record(0, [(0.5, 1.0), (0.9, 0.9)], uda_holdout_fraction=0.5)
    adapted["env0_uda_acc"] = 0.7
    some = leaderboard.rescored(Q([single, average, adapted]), "all").select("env0_in_acc")
    assert list(some) == pytest.approx([0.6, 0.7, 0.8 * 0.6 + 0.2])
    assert list(leaderboard.rescored(Q([single]), "in")) == [single]


def test_score_all_moves_no_selection(tmp_path):
    accs = [(0.2, 0.9), (0.5, 0.6)], [(0.4, 0.1), (0.5, 0.7)]
    records = Q([record(step, some) for step, some in enumerate(accs)])
    (sheet,) = leaderboard.measured(records, ["iid"], "all")
    assert sheet.rows[0][1].cell.mean == pytest.approx(100 * (0.8 * 0.4 + 0.2 * 0.1))
    assert "whole domain" in sheet.title


def test_notes_say_what_was_run_otherwise(sweep):
    notes = "\n".join(sheet_of(sweep).notes)
    assert "RotatedDigits is not run at the published protocol: 101 steps instead of 301" in notes
    assert "2 trials instead of 3; 1 hparam draw instead of 20" in notes
    assert "protocol: default" in notes


def full_protocol():
    return Q(
        record(5000, [(0.5, 0.5)] * 4, dataset="PACS", trial_seed=t, hparams_seed=k, test_envs=[e])
        for t in range(3)
        for k in range(20)
        for e in range(4)
    )


def test_the_published_protocol_has_no_deviation():
    assert deviations(full_protocol()) == ["protocol: default"]


def test_deviations_name_the_algorithms_they_are_of():
    weak = Q(
        record(5000, [(0.5, 0.5)] * 4, dataset="PACS", algorithm="CORAL", test_envs=[e])
        for e in (0, 2)
    )
    (line, _) = deviations(full_protocol() + weak)
    assert "1 trial instead of 3 (CORAL)" in line
    assert "not tested on C, S (CORAL)" in line
    assert "steps" not in line


def test_averages_count_the_runs_they_are_made_of():
    one = record(5000, [(0.5, 0.5)] * 4, dataset="PACS", n_hparams=20, n_trials=3)
    (line, _) = deviations(Q([one]))
    assert line.endswith("published protocol: not tested on C, P, S")


@pytest.mark.parametrize(
    ("hparams", "name"),
    [
        ({}, "ResNet-50"),
        ({"resnet50_augmix": False, "freeze_bn": True}, "ResNet-50"),
        (
            {"resnet50_augmix": True, "freeze_bn": False},
            "ResNet-50 with AugMix weights, BatchNorm not frozen",
        ),
        ({"resnet18": True, "resnet50_augmix": True}, "ResNet-18"),
        ({"backbone": "vit_tiny"}, "vit_tiny"),
    ],
)
def test_networks_are_named(hparams, name):
    assert network_of(hparams) == name


def test_protocols_that_differ_are_told():
    records = Q([record(0, [(0.5, 0.5)]), record(0, [(0.5, 0.5)], algorithm="IRM", protocol="x")])
    assert deviations(records)[-1] == (
        "protocol: default (ERM), x (IRM); rows of different protocols are not comparable"
    )


def test_published_rows_are_in_sheets_of_their_own_by_protocol():
    sheets = leaderboard.published()
    assert {sheet.kind for sheet in sheets} == {"published"}
    rows = [(sheet.title, texts(sheet)) for sheet in sheets]
    assert sum(len(sheet.rows) for sheet in sheets) == 21
    by_title = dict(rows)
    assert by_title["DomainBed: 5,001 steps everywhere, random head"]["CORAL"][:6] == [
        "86.2 ± 0.3", "78.8 ± 0.6", "68.7 ± 0.3", "47.6 ± 1.0", "41.5 ± 0.1", "64.6"
    ]  # fmt: skip
    assert all(row[-1].url.startswith("https://") for sheet in sheets for row in sheet.rows)


def test_published_averages_are_those_of_their_cells():
    # the published averages are of unrounded cells, so a rounding step apart at most
    for sheet in leaderboard.published():
        for row in sheet.rows:
            *cells, average = [item.cell for item in row[1:7]]
            if all(cells):
                assert sum(cell.mean for cell in cells) / 5 == pytest.approx(
                    average.mean, abs=0.101
                )


def test_published_rows_show_where_a_dataset_of_theirs_was_run(tmp_path, sweep, capsys):
    write_trials(tmp_path, "ERM", [0.5], dataset="PACS")
    assert main(["--input_dir", str(tmp_path)]) == 0
    assert "== published: DomainBed" in capsys.readouterr().out
    main(["--input_dir", str(tmp_path), "--no_published"])
    assert "published: DomainBed" not in capsys.readouterr().out
    main(["--input_dir", str(sweep)])
    out, err = capsys.readouterr()
    assert "== published" not in out and "--published shows them" in err
    main(["--input_dir", str(sweep), "--published"])
    assert "== published: DomainBed" in capsys.readouterr().out


@pytest.mark.parametrize("name", RENDERERS)
def test_every_format_has_every_row_and_label(name, sweep, capsys):
    assert main(["--input_dir", str(sweep), "--format", name, "--published"]) == 0
    out = capsys.readouterr().out
    for text in ("ERM", "CORAL", "measured", "published", "training-domain validation set"):
        assert text in out


def test_text_marks_are_explained(sweep, capsys):
    main(["--input_dir", str(sweep), "--selection", "iid"])
    out = capsys.readouterr().out
    assert "80.0 +/- 7.1 *" in out and "79.0 +/- 0.7 ~" in out
    assert "* best of its column; ~ not as good, but within error of the best" in out
    assert max(map(len, out.splitlines())) <= 100


def test_csv_has_unrounded_numbers(sweep, capsys):
    main(["--input_dir", str(sweep), "--selection", "iid", "--format", "csv"])
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    (cell,) = [x for x in lines if x["row"] == "VREx" and x["column"] == "RotatedDigits"]
    assert float(cell["value"]) == pytest.approx(79.0)
    assert float(cell["error"]) == pytest.approx(0.5**0.5)
    assert (cell["n_trials"], cell["mark"], cell["kind"]) == ("2", "near", "measured")


def test_markdown_latex_and_html_mark_in_their_own_way(sweep, capsys):
    wanted = {
        "md": ("**80.0 ± 7.1**", "<u>79.0 ± 0.7</u>"),
        "latex": ("\\textbf{80.0 $\\pm$ 7.1}", "\\underline{79.0 $\\pm$ 0.7}"),
        "html": ("<strong>80.0 ± 7.1</strong>", "<u>79.0 ± 0.7</u>"),
    }
    for name, marks in wanted.items():
        main(["--input_dir", str(sweep), "--format", name])
        out = capsys.readouterr().out
        assert all(mark in out for mark in marks)


def test_two_sweeps_side_by_side(sweep, tmp_path, capsys):
    write_trials(tmp_path, "ERM", [0.52, 0.60])
    write_trials(tmp_path, "VREx", [0.2, 0.2])
    arguments = ["--input_dir", str(sweep), "--compare", str(tmp_path), "--selection", "iid"]
    assert main([*arguments, "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    found = {
        x["row"]: (float(x["value"]), x["about"])
        for x in lines
        if x["column"] == "Difference" and "RotatedDigits" in x["about"]
    }
    assert found["ERM"] == (pytest.approx(-1.0), "RotatedDigits; yes")
    assert found["VREx"] == (pytest.approx(59.0), "RotatedDigits; no")
    assert "CORAL" not in found


def test_a_sweep_given_twice_counts_once(sweep):
    (once, problems), (twice, told) = leaderboard.read([sweep]), leaderboard.read([sweep, sweep])
    assert len(once) == len(twice) == 48
    assert problems == [] and len(told) == 3 and all("the last of each counts" in t for t in told)


def test_what_is_incomplete_is_told_of_all_folders_together(tmp_path):
    for trial, n_envs in ((0, 4), (1, 3)):
        for env in range(n_envs):
            some = [record(0, [(0.5, 0.5)] * 4, trial_seed=trial, test_envs=[env])]
            write_run(tmp_path / str(trial) / str(env), some)
        assert leaderboard.read([tmp_path / str(trial)])[1] == []
    _, (problem,) = leaderboard.read([tmp_path / "0", tmp_path / "1"])
    assert "RotatedDigits, ERM: trial 1 lacks 1 runs" in problem


def test_both_trainings_of_train_autolr_count(tmp_path):
    first = record(100, [(0.5, 0.5)] * 4)
    second = {**first, **{f"fd_{key}": 0.7 for key in first if key.endswith("_acc")}}
    write_run(tmp_path / "a", [first, second])
    (sheet,) = leaderboard.measured(leaderboard.read([tmp_path])[0], ["iid_autolr"])
    assert texts(sheet)["ERM"][0] == "70.0"


def test_leave_one_out_without_its_runs_says_why(sweep, capsys):
    main(["--input_dir", str(sweep), "--selection", "loo"])
    assert "it needs runs with two test domains" in capsys.readouterr().out


def test_damaged_runs_are_named_and_strict_ends_with_3(tmp_path, capsys):
    write_trials(tmp_path, "ERM", [0.5])
    (tmp_path / "ERM-0-0-" / "results.jsonl").write_text('{"step": 1, "ar')
    assert main(["--input_dir", str(tmp_path)]) == 0
    assert "ERM-0-0-" in capsys.readouterr().err
    assert main(["--input_dir", str(tmp_path), "--strict"]) == 3


def test_wrong_input_is_one_line(tmp_path, sweep, capsys):
    assert main(["--input_dir", str(tmp_path)]) == 2
    assert main(["--input_dir", str(sweep), "--datasets", "PACS"]) == 2
    assert main(["--input_dir", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    with pytest.raises(InputError, match="holds no records"):
        leaderboard.read([tmp_path])


def test_public_folders_need_no_run_json_nor_protocol(tmp_path, capsys):
    some = record(300, [(0.5, 0.5)] * 4)
    del some["args"]["protocol"], some["args"]["holdout_fraction"]
    write_run(tmp_path / "a", [some])
    assert main(["--input_dir", str(tmp_path)]) == 0
    assert "protocol: not recorded (ERM)" in capsys.readouterr().out


def test_torch_is_not_imported(sweep):
    code = (
        "import sys; from ratatouille_algorithms.scripts.leaderboard import main; "
        f"main(['--input_dir', {str(sweep)!r}]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
