"""The paper's sweeps are as large as the paper says (arXiv 2212.10445, section 4), and README's."""

import re
from pathlib import Path

import pytest
from conftest import DOMAINS, write_images

from domainbed.scripts import sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"
DOMAIN_NET = ["clipart", "infograph", "painting", "quickdraw", "real", "sketch"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, domains in [*DOMAINS.values(), ("domain_net", DOMAIN_NET)]:
        write_images(folder / name, domains, n=1, size=4)
    return folder


def plan(data_dir, tmp_path, name):
    arguments = ["plan", "--config", str(SWEEPS / name), "--data_dir", str(data_dir)]
    assert sweep.main([*arguments, "--output_dir", str(tmp_path), "--count_only"]) == 0


def counted(text):
    """(algorithm, folder) -> the number of jobs."""
    found = {}
    for line in text.splitlines()[1:-1]:
        algorithm, _, folder, n_jobs, *_ = line.split()
        found[algorithm, folder] = found.get((algorithm, folder), 0) + int(n_jobs)
    return found


def test_ratatouille(data_dir, tmp_path, capsys):
    plan(data_dir, tmp_path, "ratatouille.toml")
    assert counted(capsys.readouterr().out) == {
        ("FineTuning", "lp"): 22,
        ("FineTuning", "aux"): 20,
        ("FineTuning", "aux/lp"): 5,
        ("InterTraining", "."): 1320,
        ("Fusing", "."): 1320,
        ("Ensemble_InterTraining", "."): 66,
        ("Ratatouille_uniform", "."): 66,
        ("Ratatouille_greedy", "."): 66,
        ("Ratatouille_dagger", "."): 22,
    }


def test_diwa(data_dir, tmp_path, capsys):
    plan(data_dir, tmp_path, "diwa.toml")
    found = counted(capsys.readouterr().out)
    assert found["FineTuning", "."] == 1320 and found["FineTuning", "lp"] == 22
    assert found["MovingAverage", "."] == found["SWAD", "."] == found["WiSE", "."] == 1320
    assert found["DiWA_uniform", "."] == 66 and found["DiWA_dagger", "."] == 22
    assert len(found) == 9


def test_digits(tmp_path, capsys):
    """What README's tables have on every processor: their jobs, records, rows and domains."""
    arguments = ["plan", "--config", str(SWEEPS / "digits.toml"), "--count_only"]
    assert sweep.main([*arguments, "--output_dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("144 jobs: 0 done")
    in_tables = {name: n for (name, folder), n in counted(text).items() if folder == "."}
    trained = {"ERM", "FineTuning", "InterTraining"}
    readme = (SWEEPS.parent / "README.md").read_text()
    n_records = sum(n * (2 if name in trained else 1) for name, n in in_tables.items())
    assert f"Total records: {n_records}\n" in readme
    for name in in_tables:
        assert len(re.findall(rf"^{name} .*\+/-", readme, re.M)) == 3
