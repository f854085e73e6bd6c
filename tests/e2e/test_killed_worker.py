"""What is on the screen after a worker process was killed."""

import os
import subprocess
import sys

PLUGIN = """
import os, signal
from domainbed.algorithms import ERM, register

@register(hparams=[])
class Killed(ERM):
    def update(self, minibatches, unlabeled=None):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_last_line_is_ours(tmp_path):
    (tmp_path / "killed.py").write_text(PLUGIN)
    words = ["launch", "--plugins", "killed", "--datasets", "Debug28", "--algorithms", "Killed"]
    words += ["--n_hparams", "1", "--n_trials", "1", "--single_test_envs", "--steps", "2"]
    words += ["--hparams", '{"batch_size": 2}', "--skip_confirmation", "--output_dir", "runs"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-m", "domainbed.scripts.sweep", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1 and "3 jobs: 0 done" in ended.stdout
    assert "resource_tracker" not in ended.stderr and "Traceback" not in ended.stderr
    assert "Killed" in ended.stderr.splitlines()[-1]
