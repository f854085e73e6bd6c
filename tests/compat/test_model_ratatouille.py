"""Runs of ModelRatatouille's own code, averaged here: set RATATOUILLE_UPSTREAM to a checkout of it.

https://github.com/facebookresearch/ModelRatatouille; what it imports must be on PYTHONPATH.
"""

import gzip
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

UPSTREAM = os.environ.get("RATATOUILLE_UPSTREAM")
SEED = 5
PEER = """
import runpy
import sys
import torch

torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_: self
import domainbed.datasets

domainbed.datasets.RotatedMNIST.N_STEPS = 7
domainbed.datasets.RotatedMNIST.CHECKPOINT_FREQ = 3
sys.argv = sys.argv[1:]
if sys.argv[0] == "inference":
    torch.manual_seed({seed})
runpy.run_module("domainbed.scripts." + sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
    not UPSTREAM, reason="RATATOUILLE_UPSTREAM names no checkout of ModelRatatouille"
)


def write_mnist(folder):
    """scikit-learn's digits in the files that torchvision's MNIST reads."""
    digits = load_digits()
    x = np.kron(digits.images, np.ones((3, 3))) * 15
    x = np.pad(x, ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
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
    command = [sys.executable, "peer.py", *words, "--data_dir", "data", "--dataset", "RotatedMNIST"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data and a sweep of three runs, two of them from an auxiliary one."""
    folder = tmp_path_factory.mktemp("ratatouille")
    write_mnist(folder / "data")
    common = ("train", "--seed", "11")
    peer(folder, *common, "--test_envs", "-1", "--output_dir", "aux/RotatedMNIST_0")
    for k in range(3):
        out = ("--test_envs", "0", "--hparams_seed", str(k), "--output_dir", f"sweep/run{k}")
        peer(folder, *common, *out, *(("--aux_dir", "aux") if k else ()))
    return folder


@pytest.mark.parametrize("rule", ["uniform", "greedy"])
def test_its_inference_and_this_one_agree(trained, rule):
    common = ["--input_dir", "sweep", "--test_env", "0", "--weight_selection", rule]
    said = peer(trained, "inference", *common, "--trial_seed", "0")
    numbers = re.findall(r"-?\d+\.\d+", said.splitlines()[-1])
    theirs = float(numbers[0])
    command = [sys.executable, "-m", "domainbed.scripts.inference", *common]
    command += ["--data_dir", "data", "--dataset", "RotatedMNIST", "--seed", str(SEED)]
    ours = subprocess.run(command, cwd=trained, capture_output=True, text=True, check=True).stdout
    row = next(line for line in ours.splitlines() if "(test)" in line)
    assert float(row.split()[-1]) == pytest.approx(theirs, abs=1e-6)
