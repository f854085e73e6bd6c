"""Records, selection and tables against what the public DomainBed printed for the same records."""

import gzip
import json
import re
import shutil

import pytest
import random_records
from conftest import GOLDEN
from sweep_folders import write_run

from domainbed import model_selection as selection
from domainbed.lib.query import Q
from domainbed.lib.reporting import get_grouped_records, load_records, read_records
from domainbed.scripts import collect_results, list_top_hparams


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("golden")
    with gzip.open(GOLDEN / "collect_records.jsonl.gz", "rt") as lines:
        for line in lines:
            item = json.loads(line)
            (root / item["run"]).mkdir(exist_ok=True)
            with open(root / item["run"] / "results.jsonl", "a") as file:
                file.write(json.dumps(item["record"]) + "\n")
    return root


@pytest.mark.parametrize(("options", "name"), [([], "txt"), (["--latex"], "tex")])
def test_tables_are_the_public_ones_to_the_byte(sweep, options, name, capsys):
    assert collect_results.main(["--input_dir", str(sweep), *options]) == 0
    assert capsys.readouterr().out == (GOLDEN / f"collect_expected.{name}").read_text()


def record(step, accs, test_envs=(0,), hparams_seed=0, **args):
    full = {"dataset": "PACS", "algorithm": "ERM", "trial_seed": 0, **args}
    full.update(test_envs=list(test_envs), hparams_seed=hparams_seed)
    values = {}
    for env, (in_acc, out_acc) in enumerate(accs):
        values.update({f"env{env}_in_acc": in_acc, f"env{env}_out_acc": out_acc})
    return {"step": step, "args": full, "hparams": {}, **values}


def test_iid_takes_the_earliest_best_step_and_never_looks_at_the_test_domain():
    records = Q(
        [
            record(0, [(0.1, 0.9), (0.0, 0.5), (0.0, 0.5)]),
            record(1, [(0.2, 0.0), (0.0, 0.6), (0.0, 0.6)]),
            record(2, [(0.3, 0.0), (0.0, 0.6), (0.0, 0.6)]),
        ]
    )
    assert selection.IIDAccuracySelectionMethod.run_acc(records) == {
        "val_acc": 0.6, "test_acc": 0.2
    }  # fmt: skip


def test_oracle_takes_the_last_step_of_the_best_run():
    runs = [
        record(0, [(0.9, 0.9), (0, 0)]),
        record(5, [(0.3, 0.4), (0, 0)]),
        record(5, [(0.5, 0.6), (0, 0)], hparams_seed=1),
    ]
    assert selection.OracleSelectionMethod.sweep_acc(Q(runs)) == 0.5


def test_leave_one_out_needs_every_pair():
    runs = [
        record(0, [(0.7, 0), (0, 0), (0, 0)], (0,)),
        record(0, [(0, 0), (0.4, 0), (0, 0)], (0, 1)),
        record(0, [(0, 0), (0, 0), (0.6, 0)], (0, 2)),
    ]
    method = selection.LeaveOneOutSelectionMethod
    assert method.run_acc(Q(runs)) == {"val_acc": 0.5, "test_acc": 0.7}
    assert method.run_acc(Q(runs[:2])) is None
    assert method.sweep_acc(Q(runs[:2])) is None


def test_auxiliary_runs_are_no_rows():
    assert len(get_grouped_records(Q([record(0, [(0, 0)], (-1,))]))) == 0
    assert len(get_grouped_records(Q([record(0, [(0, 0)], (0, 1))]))) == 2


def test_damaged_lines_are_named_with_the_reason_of_the_first(sweep, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(sweep, root)
    folder = sorted(root.iterdir())[0]
    lines = (folder / "results.jsonl").read_text().splitlines()
    bad = ['{"step": 1, "args"', '{"step": NaN}', "[]", '{"step": 1, "args": {}}', "\x00"]
    (folder / "results.jsonl").write_text("\n".join([*lines, *bad]) + "\n")
    records, problems = read_records(root)
    assert len(records) == 552 == len(load_records(root))
    assert len(problems) == 1 and f"{len(bad)} of" in problems[0] and folder.name in problems[0]
    assert "(line 4: it is no whole JSON object)" in problems[0]
    assert collect_results.main(["--input_dir", str(root)]) == 0
    said = capsys.readouterr()
    assert said.out == (GOLDEN / "collect_expected.txt").read_text()
    assert folder.name in said.err
    assert collect_results.main(["--input_dir", str(root), "--strict"]) == 3


TABLES = json.loads((GOLDEN / "random_tables.json").read_text())


@pytest.mark.parametrize("seed", TABLES)
def test_tables_of_doubtful_records_are_public_domainbeds(seed, tmp_path, capsys):
    random_records.write_sweep(tmp_path, int(seed))
    for kind, flags in (("txt", []), ("tex", ["--latex"])):
        assert collect_results.main(["--input_dir", str(tmp_path), "--strict", *flags]) == 3
        said = capsys.readouterr()
        assert said.out == TABLES[seed][kind]
        assert "warning: " in said.err


def write(root, records):
    for i, r in enumerate(records):
        (root / str(i)).mkdir()
        (root / str(i) / "results.jsonl").write_text(json.dumps(r) + "\n")


def test_a_dataset_that_is_not_registered_has_a_table(tmp_path, capsys):
    runs = [record(0, [(0.5, 0.5), (0.25, 0.5)], (env,), dataset="Mine") for env in (0, 1)]
    write(tmp_path, [{**r, "environments": ["day", "night"]} for r in runs])
    assert collect_results.main(["--input_dir", str(tmp_path), "--selection", "iid"]) == 0
    out = capsys.readouterr().out
    assert "Dataset: Mine" in out and "day" in out and "50.0 +/- 0.0" in out and "25.0" in out


def test_runs_of_different_settings_are_not_mixed_in_silence(tmp_path, capsys):
    runs = [record(0, [(0.5, 0.5)] * 4, (env,), steps=5 + env) for env in (0, 1)]
    write(tmp_path, runs)
    assert collect_results.main(["--input_dir", str(tmp_path), "--selection", "iid"]) == 0
    assert "different --steps are mixed: 5, 6" in capsys.readouterr().err


def test_ddof_and_formats(tmp_path, capsys):
    runs = [record(0, [(acc, 0.5)] * 4, trial_seed=t) for t, acc in enumerate((0.4, 0.6))]
    write(tmp_path, runs)
    texts = {}
    for more in ([], ["--ddof", "1"], *(["--format", f] for f in ("csv", "markdown", "html"))):
        assert collect_results.main(["--input_dir", str(tmp_path), *more]) == 0
        texts[" ".join(more)] = capsys.readouterr().out
    assert "50.0 +/- 7.1" in texts[""]
    assert "50.0 +/- 10.0" in texts["--ddof 1"]
    assert "| 50.0 ± 7.1 |" in texts["--format markdown"]
    assert "<td>50.0 ± 7.1</td>" in texts["--format html"]
    assert ",PACS,ERM,A,50.0,7.07" in texts["--format csv"]


def test_no_text_of_a_record_becomes_markup(tmp_path, capsys):
    write(tmp_path, [record(0, [(0.5, 0.5)], algorithm="<script>")])
    assert collect_results.main(["--input_dir", str(tmp_path), "--format", "html"]) == 0
    out = capsys.readouterr().out
    assert "<script>" not in out and "&lt;script&gt;" in out


@pytest.mark.parametrize("main", [collect_results.main])
def test_no_records_is_one_line(main, tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "missing"):
        assert main(["--input_dir", str(folder)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_list_top_hparams(sweep, capsys):
    words = ["--input_dir", str(sweep), "--dataset", "PACS", "--algorithm"]
    assert list_top_hparams.main([*words, "ERM", "--test_env", "0"]) == 0
    out = capsys.readouterr().out
    assert "test-domain validation set (oracle)" in out and "lr: 5e-05" in out
    assert list_top_hparams.main([*words, "ERN", "--test_env", "0"]) == 2
    assert "Did you mean 'ERM'" in capsys.readouterr().err


def test_equal_runs_are_listed_by_falling_hparams_seed(tmp_path, capsys):
    for seed, acc in enumerate((0.5, 0.75, 0.5, 0.5)):
        write_run(tmp_path / "a" / str(seed), [record(0, [(0.1, acc)] * 2, hparams_seed=seed)])
    again = record(0, [(0.1, 0.5)] * 2, hparams_seed=9, trial_seed=1)
    write_run(tmp_path / "b" / "0", [again])
    words = ["--input_dir", str(tmp_path / "a"), str(tmp_path / "b"), "--algorithm", "ERM"]
    words += ["--dataset", "PACS", "--test_env", "0", "--selection"]
    for method in ("iid", "oracle"):
        assert list_top_hparams.main([*words, method]) == 0
        out = capsys.readouterr().out
        assert re.findall(r"hparams_seed (\d)", out) == ["1", "3", "2", "0", "9"]
    assert list_top_hparams.main([*words, "iid", "--strict"]) == 3  # trial 1 lacks runs
    assert "trial 1 lacks 4 runs" in capsys.readouterr().err


def test_queries():
    q = Q([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, {"a": 2, "b": {"c": 9}}])
    assert q.select("b.c") == [2, 3, 9]
    assert q.group("a").map(lambda a, some: (a, some.select("b.c").mean())) == [(1, 2.5), (2, 9.0)]
    assert q.filter_equals("a, b.c", (1, 3)) == [q[1]]
    assert q.argmax("b.c") is q[2]
    assert q.select("a").unique() == [1, 2]
    assert (Q([3, 1]) + Q([2])).sorted() == [1, 2, 3]
    assert Q([[1], [2, 3]]).flatten().sum() == 6
    assert Q([1.0, 3.0]).mean_std() == (2.0, 1.0)
