"""Records are read whole or left out by name."""

import json
import logging

import pytest

from domainbed.lib.reporting import get_grouped_records, load_records, read_records
from domainbed.registry import InputError


def record(step=0, **args):
    full = {"dataset": "PACS", "algorithm": "ERM", "trial_seed": 0, "hparams_seed": 0}
    return {
        "step": step,
        "hparams": {},
        "env0_in_acc": 0.5,
        "args": {**full, "test_envs": [0], **args},
    }


def write(folder, *lines):
    folder.mkdir()
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "results.jsonl").write_text("\n".join(texts) + "\n")


def edited(old, new):
    text = json.dumps(record())
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(record())[:-9],
        "[1]",
        "null",
        "\x00",
        "[" * 100_000,
        edited("0.5", "NaN"),
        edited("0.5", "Infinity"),
        edited("0.5", "1e999"),
        edited("0.5", "1" + "0" * 400),
        edited("0.5", "-0.1"),
        edited("0.5", '"0.5"'),
        edited('"step": 0', '"step": 0.5'),
        edited('"step": 0', '"step": true'),
        edited('"trial_seed": 0', '"trial_seed": "0"'),
        edited("[0]", '["0"]'),
        edited("[0]", "0"),
        edited('"algorithm"', '"algorithms"'),
        edited('"hparams": {}', '"hparams": 1'),
    ],
    ids=range(18),
)
def test_a_bad_line_is_left_out_and_named_once(tmp_path, line, caplog):
    write(tmp_path / "run", record(0), line, record(1))
    with caplog.at_level(logging.WARNING):
        assert load_records(tmp_path).select("step") == [0, 1]
    (message,) = [entry.getMessage() for entry in caplog.records]
    assert "run/results.jsonl: 1 of 3 lines" in message


def test_a_mean_that_passes_one_by_rounding_is_kept(tmp_path):
    write(tmp_path / "run", edited("0.5", "1.0000001"))
    assert read_records(tmp_path)[1] == []


def test_records_written_twice_are_all_kept_and_told(tmp_path):
    write(tmp_path / "a", {**record(0), "loss": 1}, {**record(0, output_dir="there"), "loss": 2})
    write(tmp_path / "b", record(0, trial_seed=1), record(1))
    records, (problem,) = read_records(tmp_path)
    assert len(records) == 4  # as public DomainBed counts them
    assert problem.startswith("PACS, ERM: 1 records stand twice, of 1 runs")


def test_folders_are_read_in_sorted_order_and_empty_ones_passed_over(tmp_path):
    for name in ("b", "a", "c"):
        write(tmp_path / name, record(0, hparams_seed=ord(name)))
    (tmp_path / "queued").mkdir()
    (tmp_path / "sweep.log").write_text("not a run")
    records, problems = read_records(tmp_path)
    assert [r["args"]["hparams_seed"] for r in records] == [97, 98, 99] and problems == []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path / "a", record())
    (tmp_path / "b" / "results.jsonl").mkdir(parents=True)
    records, (problem,) = read_records(tmp_path)
    assert len(records) == 1 and "b/results.jsonl cannot be read" in problem


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        read_records(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "key, values",
    [("steps", (5, None)), ("holdout_fraction", (0.2, 0.1)), ("hparams", ("{}", None))],
)
def test_mixed_settings_are_told_unless_a_run_is_in_no_row(tmp_path, key, values):
    write(tmp_path / "a", record(**{key: values[0]}))
    write(tmp_path / "b", record(**{key: values[1], "test_envs": [-1]}))
    assert read_records(tmp_path)[1] == []
    write(tmp_path / "c", record(**{key: values[1], "trial_seed": 1}))
    (problem,) = read_records(tmp_path)[1]
    assert problem.startswith(f"PACS, ERM: runs with different --{key} are mixed")
    assert len(read_records(tmp_path)[0]) == 3  # told, not left out


def test_a_group_for_each_test_domain(tmp_path):
    records = [record(0, test_envs=[0, 2]), record(0, test_envs=[2]), record(0, test_envs=[-1])]
    groups = get_grouped_records(records)
    assert groups.select("test_env, trial_seed, dataset, algorithm") == [
        (0, 0, "PACS", "ERM"), (2, 0, "PACS", "ERM")
    ]  # fmt: skip
    assert groups.select("records") == [records[:1], records[:2]]
