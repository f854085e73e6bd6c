"""Commands that are made for damaged folders go on, whatever lies in a run folder."""

import json
import os

import pytest
from sweep_folders import record, write_run

from domainbed.jobs import Job
from domainbed.lib.console import escaping
from domainbed.runs import LOCK, RunFolder
from domainbed.scripts import collect_results, list_top_hparams
from domainbed.scripts import sweep as sweep_script
from domainbed.sweep import status
from ratatouille_algorithms.scripts import leaderboard, report


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_link_to_itself(path):
    path.symlink_to(path)


def no_text(path):
    path.write_bytes(b"\xff\xfe\x00\x1b]52;c;eA==\x07\x9b" * 3)


def an_empty_file(path):
    path.write_bytes(b"")


def deep_json(path):
    path.write_text("[" * 100_000)


KINDS = [a_folder, a_pipe, a_link_to_itself, no_text, an_empty_file, deep_json]
FILES = ["run.json", "results.jsonl", "failed", "done", "err.txt", "tries.jsonl", LOCK]


@pytest.fixture
def root(tmp_path):
    """Two runs, of which the first is to be damaged."""
    some = [record(step, [(0.5, 0.5)] * 2) for step in (0, 100)]
    for name in "ab":
        write_run(tmp_path / "runs" / name, some, provenance={}, files={})
    return tmp_path / "runs"


def codes(root, capsys):
    """The exit codes of all commands, which print no control character."""
    folder = ["--input_dir", str(root)]
    given = [*folder, "--dataset", "RotatedDigits", "--algorithm", "ERM", "--test_env", "0"]
    found = {
        "verify": sweep_script.main(["verify", "--output_dir", str(root)]),
        "collect_results": collect_results.main(folder),
        "list_top_hparams": list_top_hparams.main(given),
        "leaderboard": leaderboard.main(folder),
        "report": report.main([*folder, "--output", str(root.parent / "report.html")]),
    }
    with escaping():
        print(status([Job({}, str(path)) for path in sorted(root.iterdir())]))
    said = capsys.readouterr()
    assert not set("\x1b\x07\x9b") & set(said.out + said.err)
    return found, said.out, said.err


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", FILES)
def test_every_command_goes_on_whatever_a_file_is(root, capsys, name, make):
    file = root / "a" / name
    file.unlink(missing_ok=True)
    make(file)
    found, out, _ = codes(root, capsys)
    assert found.pop("verify") in (0, 1)
    assert set(found.values()) == {0}
    assert "2 runs: " in out  # the other one was looked at, too


@pytest.mark.parametrize(
    "files", [None, 3, "text", [], ["model.safetensors"], {"x" * 5000: "0"}, {"../b/done": "0"}]
)
def test_verify_names_what_run_json_says_of_files(root, capsys, files):
    run = json.loads((root / "a/run.json").read_text())
    (root / "a/run.json").write_text(json.dumps({**run, "files": files}))
    found, out, err = codes(root, capsys)
    assert found["verify"] == 1
    assert "2 runs: 1 sound, 1 damaged" in out
    assert max(map(len, err.splitlines())) < 600 and str(root / "a") in err


@pytest.mark.parametrize("description", [None, [], 3, "x", {"args": 3}, {"args": [[]]}])
def test_verify_survives_any_description(root, capsys, description):
    folder = (root / "a").rename(root / ("0" * 32))
    (folder / "run.json").write_text(json.dumps(description))
    found, out, err = codes(root, capsys)
    assert found["verify"] == 1 and "2 runs: 1 sound, 1 damaged" in out and "run.json" in err


def test_a_reason_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "failed").mkdir()
    assert "cannot be read" in RunFolder(tmp_path).failure()
