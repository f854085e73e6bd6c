"""Runs of different protocols in one table: told, and written over the table."""

import csv
import io
import json

import pytest

from domainbed import tables
from domainbed.lib.doubts import mixtures
from domainbed.lib.query import Q
from domainbed.model_selection import SELECTIONS
from domainbed.protocols import PROTOCOLS
from domainbed.scripts import collect_results, train

MIXED = "(protocols mixed: default, ratatouille)"


def record(protocol, dataset="Debug28", algorithm="ERM", test_envs=(0,)):
    args = {
        "dataset": dataset, "algorithm": algorithm, "trial_seed": 0, "hparams_seed": 0,
        "test_envs": list(test_envs), "holdout_fraction": 0.2, "steps": None, "hparams": None,
    }  # fmt: skip
    if protocol:
        args["protocol"] = protocol
    accs = {f"env{env}_{split}_acc": 0.5 for env in range(3) for split in ("in", "out")}
    return {"step": 0, "args": args, "hparams": {}, **accs}


def render(name, records):
    return tables.RENDERERS[name](tables.build(Q(records), SELECTIONS["iid"]), len(records))


def mixed_records():
    return [record("default"), record("ratatouille", algorithm="IRM"), record("default", "PACS")]


@pytest.mark.parametrize("name", ["text", "markdown", "html"])
def test_headings_say_so_where_it_is_so(name):
    headings = [line for line in render(name, mixed_records()).split("\n") if "method" in line]
    assert [MIXED in line for line in headings] == [True, False, True]  # Debug28, PACS, averages


def test_latex_says_so_in_the_subsection():
    text = render("latex", mixed_records())
    titles = [line for line in text.split("\n") if line.startswith("\\subsubsection")]
    assert titles == [
        f"\\subsubsection{{Debug28 {MIXED}}}",
        "\\subsubsection{PACS}",
        f"\\subsubsection{{Averages {MIXED}}}",
    ]


def test_csv_has_a_column_for_it_where_anything_is_mixed():
    rows = list(csv.DictReader(io.StringIO(render("csv", mixed_records()))))
    said = {row["dataset"]: row["protocols_mixed"] for row in rows}
    both = "default, ratatouille"
    assert said == {"Debug28": both, "PACS": "", "Averages": both}
    assert "protocols_mixed" not in render("csv", [record("default")])


@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
@pytest.mark.parametrize("name", tables.RENDERERS)
def test_one_protocol_or_none_changes_nothing(name, protocol):
    some = [record(protocol), record(protocol, algorithm="IRM"), record(protocol, "PACS")]
    # a run without a test domain is in no table
    auxiliary = record("ratatouille", test_envs=(-1,))
    plain = render(name, [record(None), record(None, algorithm="IRM"), record(None, "PACS")])
    assert render(name, some) == plain and "mixed" not in plain
    assert mixtures([*some, auxiliary]) == []
    assert tables.build(Q([*some, auxiliary]), SELECTIONS["iid"])[0].protocols == ""


def test_public_domainbeds_records_beside_ours_are_told_too():
    (problem,) = mixtures([record(None), record("default", algorithm="IRM")])
    assert problem == (
        "Debug28: runs of different protocols are in one table: (none recorded), default"
    )


def test_records_name_their_protocol_and_collect_results_warns(tmp_path, capsys):
    words = ["--dataset", "Debug28", "--steps", "1", "--hparams", '{"batch_size": 2}']
    for protocol in (None, "domainbed-2020"):
        more = ["--protocol", protocol] if protocol else []
        folder = tmp_path / (protocol or "default")
        assert train.main([*words, *more, "--output_dir", str(folder)]) == 0
        one = json.loads((folder / "results.jsonl").read_text())
        assert one["args"]["protocol"] == folder.name
        assert one["hparams"]["freeze_bn"] == bool(protocol)
    capsys.readouterr()
    assert collect_results.main(["--input_dir", str(tmp_path), "--strict"]) == 3
    shown = capsys.readouterr()
    assert "different protocols are in one table: default, domainbed-2020" in shown.err
    assert "(protocols mixed: default, domainbed-2020)" in shown.out
