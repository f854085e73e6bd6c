"""Tables as data and as text; the scripts that print them."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest

from domainbed import tables
from domainbed.lib.query import Q
from domainbed.model_selection import OracleSelectionMethod
from domainbed.scripts import collect_results, list_top_hparams


def record(test_env, acc, dataset="PACS", algorithm="ERM", trial_seed=0, n_envs=4, **more):
    args = {"dataset": dataset, "algorithm": algorithm, "trial_seed": trial_seed}
    args.update(test_envs=[test_env], hparams_seed=0, output_dir=f"run{trial_seed}")
    accs = {f"env{i}_{split}_acc": acc for i in range(n_envs) for split in ("in", "out")}
    return {"step": 0, "args": args, "hparams": {"lr": 0.5}, **accs, **more}


def write(root, records):
    for i, r in enumerate(records):
        (root / f"{i:03}").mkdir()
        (root / f"{i:03}" / "results.jsonl").write_text(json.dumps(r) + "\n")
    return ["--input_dir", str(root)]


def build(records, ddof=0):
    return tables.build(Q(records), OracleSelectionMethod, ddof)


def test_cells_hold_percent_errors_and_trials():
    accs = {(0, 0): 0.4, (0, 1): 0.6, (1, 0): 0.8, (1, 1): 0.8}
    table, averages = build([record(e, a, trial_seed=t, n_envs=2, dataset="Mine")
                             for (e, t), a in accs.items()])  # fmt: skip
    ((name, cells),) = table.rows
    assert (name, table.columns) == ("ERM", ["0", "1", "Avg"])
    assert [c.mean for c in cells] == pytest.approx([50, 80, 65])
    assert [c.error for c in cells[:2]] == pytest.approx([10 / 2**0.5, 0])
    assert cells[2].error is None and cells[0].n == 2
    ((_, (mean, _)),) = averages.rows  # trials have 60 and 70
    assert (mean.mean, mean.error) == pytest.approx((65, 5 / 2**0.5))


def test_errors_by_hand():
    assert tables.summarise([0.1, 0.2, 0.6], 0).error == pytest.approx(100 * (0.14 / 9) ** 0.5)
    assert tables.summarise([0.1, 0.2, 0.6], 1).error == pytest.approx(100 * (0.14 / 6) ** 0.5)
    assert tables.summarise([]) is None


def test_a_missing_domain_is_none_and_so_is_the_average():
    table, averages = build([record(0, 0.5)])
    ((_, cells),) = table.rows
    assert [c is None for c in cells] == [False, True, True, True, True]
    assert averages.rows[0][1][0].mean == 50  # of what there is, as DomainBed's


def test_rows_and_tables_have_domainbeds_order_then_that_of_appearance():
    names = ["Zeta", "CORAL", "Alpha", "ERM"]
    built = build([record(0, 0.5, dataset, name)
                   for name in names for dataset in ("Mine", "PACS", "VLCS")])  # fmt: skip
    assert [t.dataset for t in built] == ["VLCS", "PACS", "Mine", None]
    for table in built:
        assert [name for name, _ in table.rows] == ["ERM", "CORAL", "Zeta", "Alpha"]


@pytest.mark.parametrize(
    "names, expected",
    [
        (["day", "night"], ["day", "night"]),
        (["day"], ["0", "1"]),
        ([1, 2], ["0", "1"]),
        (7, ["0", "1"]),
    ],
)
def test_columns_of_a_dataset_that_is_not_registered(names, expected):
    records = [record(0, 0.5, "Mine", n_envs=2, environments=names)]
    assert build(records)[0].columns == [*expected, "Avg"]


def test_latex_escapes_names_and_never_cuts_a_brace():
    records = [record(e, 0.5, "ColoredMNIST", "A_rather_long_name_of_a_method_50%", n_envs=3)
               for e in range(3)]  # fmt: skip
    records += [record(0, 0.5, "A_rather_long_name_of_a_dataset", "B\\&#~^{}", n_envs=1)]
    text = tables.render_latex(build(records), 4)
    assert "\\textbf{+90\\%} " in text and "{A\\_rather\\_long\\_name\\_of\\_a\\_dataset}" in text
    assert "A\\_rather\\_long\\_name\\_of\\_a\\_method\\_50\\% & 50.0 $\\pm$ 0.0" in text
    assert "B\\textbackslash{}\\&\\#\\textasciitilde{}\\textasciicircum{}\\{\\} &" in text
    plain = re.sub(r"\\[%&#${}_]", "", text)
    assert plain.count("{") == plain.count("}")
    rows = [line for line in plain.splitlines() if line.endswith("\\\\")]
    assert {line.count(" & ") for line in rows} == {2, 3, 4} and len(rows) == 9
    assert all("%" not in line for line in rows)


def test_csv_says_all_that_the_cells_do():
    built = build([record(0, 0.5, algorithm='a,"b"')])
    rows = list(csv.DictReader(io.StringIO(tables.render_csv(built, 1))))
    assert len(rows) == 5 + 2
    assert [rows[0][key] for key in ("dataset", "algorithm", "column", "mean", "n_trials")] == [
        "PACS", 'a,"b"', "A", "50.0", "1"
    ]  # fmt: skip
    assert rows[1]["mean"] == rows[1]["error"] == ""


def test_format_mean():
    assert collect_results.format_mean([0.5, 0.7], False) == (
        pytest.approx(60), pytest.approx(10 / 2**0.5), "60.0 +/- 7.1"
    )  # fmt: skip
    assert collect_results.format_mean([0.5, 0.7], True)[2] == "60.0 $\\pm$ 7.1"
    assert collect_results.format_mean([], False) == (None, None, "X")


def test_print_table(capsys):
    collect_results.print_table([["1", "2"]], "T", ["row"], ["", "a", "b"], colwidth=4, latex=False)
    assert capsys.readouterr().out == "\n-------- T\n      a     b    \nrow   1     2    \n"
    collect_results.print_table([["1"]], "T", ["row"], ["", "a"], colwidth=4)
    assert "\\textbf{a} \\\\\n\\midrule\nrow  & 1    \\\\\n\\bottomrule" in capsys.readouterr().out


def test_filters_show_what_is_named_and_refuse_what_is_not_there(tmp_path, capsys):
    options = write(
        tmp_path, [record(0, 0.5, d, a) for d in ("PACS", "VLCS") for a in ("ERM", "X")]
    )
    assert collect_results.main([*options, "--datasets", "VLCS", "--algorithms", "X"]) == 0
    out = capsys.readouterr().out
    assert "Total records: 1" in out and "PACS" not in out and "ERM" not in out
    assert collect_results.main([*options, "--algorithms", "ERM", "XX"]) == 2
    assert capsys.readouterr().err == "error: No record has algorithm 'XX'. Did you mean 'X'?\n"


def test_damage_is_told_even_if_nothing_is_left(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.jsonl").write_text("{\n")
    assert collect_results.main(["--input_dir", str(tmp_path)]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "1 of 1 lines" in warning and "holds no records" in error


def test_the_note_on_pairs_is_one_line_and_only_where_it_helps(tmp_path, capsys):
    options = write(tmp_path, [record(0, 0.5)])
    assert collect_results.main(options) == 0
    assert capsys.readouterr().err.count("\n") == 1
    assert collect_results.main([*options, "--auto_lr"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "auto lr training-domain" in said.out and "oracle" not in said.out


def test_top_hparams_shows_each_run_and_names_what_is_there(tmp_path, capsys):
    options = write(tmp_path, [record(0, 0.25, trial_seed=t) for t in (1, 0)])
    chosen = [*options, "--dataset", "PACS", "--algorithm", "ERM", "--test_env"]
    assert list_top_hparams.main([*chosen, "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("val_acc 0.2500, test_acc 0.2500") == 4  # two trials, two methods
    assert out.index("output_dir: run0") < out.index("output_dir: run1") and "lr: 0.5" in out
    assert list_top_hparams.main([*chosen, "2"]) == 2
    assert "test_env 2. Known: 0." in capsys.readouterr().err


def test_top_hparams_of_no_runs_is_one_line(tmp_path, capsys):
    options = ["--dataset", "PACS", "--algorithm", "ERM", "--test_env", "0"]
    assert list_top_hparams.main(["--input_dir", str(tmp_path), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_readers_of_results_do_not_import_torch():
    code = (
        "import sys, domainbed.scripts.collect_results as c, domainbed.scripts.list_top_hparams, "
        "domainbed.lib.misc; c.build_parser(); "
        "print([m for m in ('torch', 'pandas', 'tqdm', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
