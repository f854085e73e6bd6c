"""16 short jobs under the workers launcher against local, which starts a process for each.

Prints wall seconds of both, run in turn, and their ratio: median, least and most.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time


def seconds(launcher: str, steps: int) -> float:
    with tempfile.TemporaryDirectory() as output_dir:
        command = [sys.executable, "-m", "domainbed.scripts.sweep", "launch"]
        command += ["--datasets", "RotatedDigits", "--algorithms", "ERM", "--n_hparams", "4"]
        command += ["--n_trials", "1", "--single_test_envs", "--skip_confirmation"]
        command += ["--steps", str(steps), "--hparams", '{"batch_size": 2, "backbone": "mlp"}']
        command += ["--output_dir", output_dir, "--command_launcher", launcher]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    args = parser.parse_args()
    ratios = []
    for _ in range(args.repeats):
        local, workers = seconds("local", args.steps), seconds("workers", args.steps)
        ratios.append(local / workers)
        print(f"local {local:6.1f} s   workers {workers:6.1f} s   ratio {ratios[-1]:.2f}")
    print(f"ratio: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
