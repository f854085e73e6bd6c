"""Runs of ModelRatatouille's own code, averaged here: set RATATOUILLE_UPSTREAM to a checkout of it.

https://github.com/facebookresearch/ModelRatatouille; what it imports must be on PYTHONPATH.
"""

import gzip
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from domainbed.runs import RunFolder

UPSTREAM = os.environ.get("RATATOUILLE_UPSTREAM")
SEED = 11
"""Of training and of inference, so that both draw the same domains."""
PEER = """
import runpy
import sys
import torch

torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
import domainbed.datasets

rotated = domainbed.datasets.RotatedMNIST
rotated.N_STEPS, rotated.CHECKPOINT_FREQ = 7, 3
domainbed.datasets.ColoredMNIST = type("ColoredMNIST", (rotated,), {{}})  # images of one shape
sys.argv = sys.argv[1:]
if sys.argv[0] == "inference":
    torch.manual_seed({seed})
runpy.run_module("domainbed.scripts." + sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not UPSTREAM, reason="RATATOUILLE_UPSTREAM names no checkout of ModelRatatouille"
)


def write_mnist(folder):
    """scikit-learn's digits in the files that torchvision's MNIST reads, as many in each domain.

    There the mean over samples of all domains, which is its greedy score, is ours over domains.
    """
    digits = load_digits()
    x = np.kron(digits.images, np.ones((3, 3))) * 15
    x = np.pad(x, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in (("train", slice(0, 1400)), ("t10k", slice(1400, 1770))):
        a, b = x[part], digits.target[part].astype(np.uint8)
        images = struct.pack(">IIII", 2051, len(a), 28, 28) + a.tobytes()
        labels = struct.pack(">II", 2049, len(b)) + b.tobytes()
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            (raw / f"{name}-{kind}-ubyte").write_bytes(data)
            (raw / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))


def peer(folder, *words):
    """Run a script of the checkout."""
    (folder / "peer.py").write_text(PEER.format(seed=SEED))
    path = os.pathsep.join(filter(None, [UPSTREAM, os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    command = [sys.executable, "peer.py", *words, "--data_dir", "data"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a sweep of three runs, the second of them from an auxiliary one."""
    folder = tmp_path_factory.mktemp("ratatouille")
    write_mnist(folder / "data")
    auxiliary = "aux/ColoredMNIST_notest/run0"
    common = ("train", "--seed", str(SEED), "--dataset")
    peer(folder, *common, "ColoredMNIST", "--test_envs", "-1", "--output_dir", auxiliary)
    for k in range(3):
        words = ("--test_envs", "0", "--hparams_seed", str(k), "--output_dir", f"sweep/run{k}")
        said = peer(folder, *common, "RotatedMNIST", *words, "--aux_dir", "aux")
        assert (f"{auxiliary}/featurizer_last.pkl" in said) == (k == 1)
    return folder


@pytest.mark.parametrize("rule", ["uniform", "greedy"])
def test_its_inference_and_this_one_agree(trained, rule):
    words = ["--input_dir", "sweep", "--data_dir", "data", "--dataset", "RotatedMNIST"]
    words += ["--test_env", "0", "--weight_selection", rule]
    said = peer(trained, "inference", *words, "--trial_seed", "0")
    members = dict(re.findall(r"^Found sweep/(\w+) (\S+)", said, re.M))
    theirs = [float(number) for number in re.findall(r"\d+\.\d+", said.splitlines()[-1])]
    command = [sys.executable, "-m", "domainbed.scripts.inference", *words]
    command += ["--output_dir", f"average_{rule}"]
    subprocess.run(command, cwd=trained, capture_output=True, text=True, check=True)
    folder = RunFolder(trained / f"average_{rule}")
    (record,) = folder.records()
    ours = [record["env0_all_acc"], sum(record[f"env{e}_out_acc"] for e in range(1, 6)) / 5]
    assert theirs == pytest.approx(ours[: len(theirs)], abs=1e-6)
    rows = folder.description()["provenance"]["members"]
    found = {Path(row["run"]).name: row["id_acc"] for row in rows}
    assert found == pytest.approx({name: float(acc) for name, acc in members.items()})
