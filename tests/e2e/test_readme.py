"""What the README's first command gives on every processor; accuracies may differ by a sample."""

import json
import re
from pathlib import Path

from domainbed.engine.options import Options
from domainbed.engine.run import Run
from domainbed.scripts import sweep, train

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIG = str(ROOT / "sweeps/digits.toml")
SIZES = [(91, 22), (91, 22), (90, 22), (90, 22)]
FIRST = [105, 98, 75, 45, 97, 69]


def test_the_sweep_has_144_jobs(tmp_path, capsys):
    assert sweep.main(["status", "--config", CONFIG, "--output_dir", str(tmp_path)]) == 0
    assert "144 jobs: 0 done, 0 running, 0 incomplete" in capsys.readouterr().out


def test_the_tables_have_its_algorithms_and_domains():
    rows = re.findall(r"^(\w+) +\d+\.\d \+/- 0\.0 .*", README, re.M)
    config = Path(CONFIG).read_text()
    names = re.findall(r'"(\w+)"', re.search(r"algorithms = \[(.*?)\]", config, re.S)[1])
    assert rows == 3 * names
    assert re.search(r"^Algorithm +0 +20 +40 +60 +Avg", README, re.M)
    assert re.search(r"^Algorithm +clean +gaussian +pepper +bar +Avg", README, re.M)


def test_the_splits_are_the_same_everywhere():
    run = Run(Options(dataset="RotatedDigits", hparams='{"batch_size": 8}'), {})
    assert [(len(split.in_), len(split.out)) for split in run.splits] == SIZES
    assert list(run.splits[0].out[:6]) == FIRST


def test_records_have_the_same_keys_everywhere(tmp_path):
    words = ["--dataset", "RotatedDigits", "--steps", "1", "--hparams", '{"batch_size": 2}']
    assert train.main([*words, "--output_dir", str(tmp_path / "run")]) == 0
    (line,) = (tmp_path / "run/results.jsonl").read_text().splitlines()
    accs = {f"env{env}_{split}_acc" for env in range(4) for split in ("in", "out")}
    others = {"step", "epoch", "loss", "step_time", "update_time", "mem_gb", "hparams", "args"}
    assert set(json.loads(line)) == accs | others | {"environments"}
