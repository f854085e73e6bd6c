"""The plug-in of docs/plugins.md works as the page says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/plugins.md").read_text()


def block(start: str) -> str:
    return next(text for text in re.findall(r"```\w+\n(.*?)```", PAGE, re.S) if start in text)


def run(folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "DOMAINBED_PLUGINS"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    for name in ("mine.py", "test_mine.py"):
        (folder / name).write_text(block(f"# {name}"))
    return folder


@pytest.fixture(scope="module")
def launched(folder) -> Path:
    """The folder, with the page's sweep in `runs`."""
    run(folder, *shlex.split(block("sweep launch").strip().split("\n")[0])[1:])
    return folder


def test_its_commands_run_and_its_names_are_in_the_table(launched):
    table = run(launched, *shlex.split(block("sweep launch").strip().split("\n")[1])[1:])
    assert "Total records: 15" in table  # 3 domains, 5 records of each
    assert table.count("model selection method: training-domain validation set, last step") == 2
    for name in ("Smoothed ", "Dataset: Blobs", "calm ", "stormy "):
        assert table.count(name) >= 2, name
    assert " X " not in table


def test_its_test_passes(folder):
    assert "1 passed" in run(folder, "-m", "pytest", "-p", "no:cacheprovider", "test_mine.py")


def test_a_class_of_another_file_is_registered_in_one_line(folder):
    (folder / "theirs.py").write_text(block("# theirs.py"))
    (folder / "their_algorithms.py").write_text(
        "from domainbed import algorithms\n\n\nclass TheirMethod(algorithms.ERM):\n    pass\n"
    )
    words = "--plugins theirs mine --algorithm TheirMethod --dataset Blobs --steps 2"
    hparams = ["--hparams", '{"backbone": "tiny"}']
    run(folder, "-m", "domainbed.scripts.train", *words.split(), *hparams)
    assert (folder / "train_output/done").is_file()


def test_top_hparams_are_listed_by_a_plugin_too(launched):
    words = "--plugins mine --input_dir runs --dataset Blobs --algorithm Smoothed --test_env 0"
    said = run(
        launched, "-m", "domainbed.scripts.list_top_hparams", *words.split(), "--selection", "last"
    )
    assert said.startswith("Model selection: training-domain validation set, last step\n")
    assert said.count("hparams_seed 0") == 1


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        ("self.hparams['their_lambda']", "HParam('their_lambda', DEFAULT)"),
        ("get_algorithm_class('ERN')", "error: Unknown algorithm 'ERN'. Did you mean 'ERM'"),
    ],
)
def test_what_a_class_misses_when_it_is_built_is_named(tmp_path, reads, told):
    (tmp_path / "missing.py").write_text(
        "from domainbed.algorithms import ERM, get_algorithm_class, register\n\n\n"
        "@register(hparams=[])\n"
        "class Missing(ERM):\n    def __init__(self, *args):\n        super().__init__(*args)\n"
        f"        self.found = {reads}\n"
    )
    words = ["-m", "domainbed.scripts.train", "--plugins", "missing", "--dataset", "Debug28"]
    words += ["--algorithm", "Missing", "--steps", "2", "--output_dir", "r"]
    words += ["--hparams", '{"batch_size": 2}']
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert done.returncode == 2 and told in line
    assert "Traceback" not in done.stderr
