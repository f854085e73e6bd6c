"""What makes tables doubtful is said, and is no reason to leave out what can be read."""

import codecs
import json
import os
import sys

import pytest

from domainbed.lib.console import escape
from domainbed.lib.reporting import read_records
from domainbed.registry import InputError
from domainbed.scripts import collect_results, one_line

ARGS = {
    "dataset": "PACS",
    "algorithm": "ERM",
    "test_envs": [0],
    "trial_seed": 0,
    "hparams_seed": 0,
    "holdout_fraction": 0.2,
}


def record(step=0, acc=0.5, loss=0.1, **args):
    accs = {f"env{env}_{split}_acc": acc for env in range(4) for split in ("in", "out")}
    return {"step": step, "loss": loss, "hparams": {}, "args": {**ARGS, **args}, **accs}


def write(folder, *records, encoding="utf-8", state="done"):
    folder.mkdir(parents=True)
    text = "".join(json.dumps(r) + "\n" if isinstance(r, dict) else r + "\n" for r in records)
    (folder / "results.jsonl").write_bytes(text.encode(encoding))
    if state:
        (folder / state).write_text("")


def tables(root, capsys, *more):
    code = collect_results.main(["--input_dir", str(root), "--strict", *more])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_keeps_its_record(tmp_path, capsys, loss):
    write(tmp_path / "a", record(300, 0.8), record(600, 0.1, loss))
    code, out, err = tables(tmp_path, capsys, "--selection", "oracle")
    assert code == 3 and "10.0 +/- 0.0" in out and "80.0" not in out
    assert err == "warning: PACS, ERM: loss is not finite, first at step 600\n"


@pytest.mark.parametrize(
    "lacking, said",
    [
        ([(2, 0), (2, 1), (2, 2)], "trial 2 lacks 3 runs"),
        ([(0, 3), (1, 1)], "trial 0 lacks 1 runs, trial 1 lacks 1 runs"),
    ],
)
def test_a_trial_that_lacks_a_domain_is_told(tmp_path, capsys, lacking, said):
    for trial in range(3):
        for env in range(4):
            if (trial, env) not in lacking:
                run = record(trial_seed=trial, test_envs=[env])
                write(tmp_path / f"{trial}{env}", run)
    code, _, err = tables(tmp_path, capsys)
    assert code == 3 and f"PACS, ERM: {said}; means are of what is there" in err


def test_a_whole_sweep_is_not_doubtful(tmp_path, capsys):
    for trial in range(2):
        for env in range(4):
            for seed in range(2):
                run = record(trial_seed=trial, test_envs=[env], hparams_seed=seed)
                write(tmp_path / f"{trial}{env}{seed}", run)
    code, _, err = tables(tmp_path, capsys, "--selection", "iid", "oracle")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("state, said", [("failed", "failed"), (None, "are not finished")])
def test_a_run_that_did_not_end_is_told(tmp_path, capsys, state, said):
    write(tmp_path / "a", record())
    write(tmp_path / "b", record(trial_seed=1), state=state)
    code, _, err = tables(tmp_path, capsys)
    assert code == 3 and f"1 of 2 runs {said}, such as {tmp_path / 'b'}" in err


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"step": "x"}, "step is 'x', expected an integer"),
        ({"step": 0.5}, "step is 0.5, expected an integer"),
        ({"env1_in_acc": 98.0}, "env1_in_acc is 98.0, expected 0 to 1"),
        ({"env1_in_acc": float("nan")}, "env1_in_acc is nan, expected 0 to 1"),
        ({"args": None}, "args is no object"),
        ({"args": {**ARGS, "trial_seed": None}}, "trial_seed of args is None, expected int"),
        ({"args": {**ARGS, "protocol": ["a"]}}, "protocol of args is ['a'], expected str"),
        ({"args": {**ARGS, "data_dir": [1]}}, "data_dir of args is [1], expected str"),
        ({"args": {**ARGS, "steps": "x"}}, "steps of args is 'x', expected int"),
        ({"args": {**ARGS, "hparams": [1]}}, "hparams of args is [1], expected str"),
        ({"args": {**ARGS, "test_envs": "0"}}, "test_envs of args is '0', expected list"),
        ({"args": {**ARGS, "test_envs": [0, None]}}, "expected integers"),
        ({"args": {**ARGS, "holdout_fraction": {}}}, "holdout_fraction of args is {}"),
    ],
)
def test_the_reason_is_told_and_the_rest_is_read(tmp_path, capsys, change, reason):
    write(tmp_path / "a", record(0, 0.7), {**record(300), **change})
    code, out, err = tables(tmp_path, capsys, "--selection", "iid")
    assert code == 3 and "70.0 +/- 0.0" in out
    assert f"1 of 2 lines are damaged and left out (line 2: {reason}" in err or reason in err


def test_many_damaged_files_are_counted(tmp_path, capsys):
    for i in range(9):
        write(tmp_path / str(i), record(trial_seed=i), "{")
    _, _, err = tables(tmp_path, capsys, "--selection", "iid")
    assert err.count("damaged and left out") == 3
    assert "6 more files are damaged" in err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_mark_of_byte_order_is_passed_over(tmp_path, encoding):
    write(tmp_path / "a", record(), record(300), encoding=encoding)
    records, problems = read_records(tmp_path)
    assert len(records) == 2 and problems == []


def test_utf16_is_named(tmp_path):
    write(tmp_path / "a", record(), encoding="utf-16")
    assert (tmp_path / "a/results.jsonl").read_bytes().startswith(codecs.BOM_UTF16)
    records, (problem, *_) = read_records(tmp_path)
    assert records == [] and "UTF-16, expected UTF-8" in problem


def test_whole_floats_are_integers(tmp_path):
    floats = record(300.0, trial_seed=1.0, hparams_seed=2.0, test_envs=[3.0], steps=501.0)
    write(tmp_path / "a", floats)
    (read,), problems = read_records(tmp_path)
    assert problems == [] and type(read["step"]) is int
    args = read["args"]
    assert (args["trial_seed"], args["test_envs"], args["steps"]) == (1, [3], 501)
    assert type(args["hparams_seed"]) is type(args["test_envs"][0]) is int


def test_a_pipe_is_no_file_of_records(tmp_path):
    write(tmp_path / "a", record())
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b/results.jsonl")
    records, (problem,) = read_records(tmp_path)
    assert len(records) == 1 and "b/results.jsonl cannot be read" in problem


ODD = "\x1b]52;c;eA==\x07\x9b31m\u202e\nname"


@pytest.mark.parametrize("key", ["algorithm", "dataset", "protocol", "hparams"])
def test_control_characters_in_names_are_printed_as_escapes(tmp_path, capsys, key):
    write(tmp_path / "a", record(**{key: ODD}))
    write(tmp_path / "b", record(trial_seed=1))
    _, out, err = tables(tmp_path, capsys)
    for text in (out, err):
        assert not set("\x1b\x07\x9b") & set(text)


def test_ordinary_names_are_not_escaped():
    assert escape("ERM, 'Größe', 日本, a\\b") == "ERM, 'Größe', 日本, a\\b"
    assert escape(ODD) == r"\x1b]52;c;eA==\x07\x9b31m\u202e\nname"


def test_several_folders_are_one_sweep(tmp_path, capsys):
    write(tmp_path / "x/a", record(0, 0.6))
    write(tmp_path / "y/a", record(0, 0.8, trial_seed=1))
    folders = [str(tmp_path / name) for name in "xy"]
    assert collect_results.main(["--input_dir", *folders, "--selection", "iid"]) == 0
    assert "70.0 +/- 7.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args, note",
    [
        ({"test_envs": [0, 1, 2]}, "1 runs hold out more than two domains"),
        ({"holdout_fraction": 0}, "1 runs held nothing out (--holdout_fraction 0)"),
        ({"test_envs": [-1]}, "all runs train on every domain"),
    ],
)
def test_runs_that_no_method_can_select_are_told(tmp_path, capsys, args, note):
    write(tmp_path / "a", record(**args))
    assert note in tables(tmp_path, capsys)[2]


def test_a_dataset_of_two_domains_is_not_told_to_hold_out_both(tmp_path, capsys):
    pair = record(dataset="Two")
    pair = {k: v for k, v in pair.items() if not k.startswith(("env2", "env3"))}
    write(tmp_path / "a", pair)
    err = tables(tmp_path, capsys)[2]
    assert "of two domains that leaves none to train on" in err and "--single_test" not in err


@pytest.mark.parametrize("key, value", [("seed", 7), ("foundation", "x"), ("data_dir", "/there")])
def test_two_sweeps_in_one_folder_are_told_by_what_differs(tmp_path, capsys, key, value):
    write(tmp_path / "a", record())
    write(tmp_path / "b", record(**{key: value}))
    code, _, err = tables(tmp_path, capsys)
    assert code == 3 and f"and other arguments ({key}); they are taken for one run" in err


def test_a_job_that_lies_in_two_folders_is_told(tmp_path, capsys):
    for name in "xy":
        write(tmp_path / name / "a", record(0, 0.5, output_dir=name))
    assert collect_results.main(["--input_dir", *(str(tmp_path / name) for name in "xy")]) == 0
    said = capsys.readouterr()
    assert "Total records: 2" in said.out and "1 records stand twice, of 1 runs" in said.err


def test_no_command_prints_control_characters_and_others_as_they_are(capsys):
    ordinary = "Größe, 日本:\t1\n"

    @one_line
    def main(argv=None):
        print(f"{ODD}{ordinary}", end="")
        print(ODD, file=sys.stderr)
        sys.stdout.writelines([ODD])
        raise InputError(ODD)

    assert main([]) == 2
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not set("\x1b\x07\x9b\u202e") & set(text) and r"\x1b]52;c;eA==\x07" in text
    assert ordinary in said.out
