"""The launcher for Ray on a real cluster of two nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from domainbed import testing
from domainbed.command_launchers import ray as launcher
from domainbed.registry import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "slurm"))
import tiny_sweep

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(autouse=True)
def ray_installed(monkeypatch):
    """Skip where Ray is not."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def test_the_launcher_keeps_its_promises():
    testing.check_launcher(launcher.ray_launcher)


def test_a_cluster_that_is_not_there_is_told():
    with pytest.raises(InputError, match=r"'127.0.0.1:1' cannot be reached"):
        launcher.launch_graph([], {"address": "127.0.0.1:1"}, "runs")


@pytest.fixture
def two_nodes():
    """A cluster of two nodes with a core each; the second can be killed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield cluster, cluster.add_node(num_cpus=1)
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_sweep_that_loses_a_node_equals_a_local_one(two_nodes, tmp_path):
    root, local = tmp_path / "ray", tmp_path / "local"
    cluster, second = two_nodes
    words = tiny_sweep.command(root, "ray", "--launcher_options", f"address={cluster.address}")
    sweep = subprocess.Popen(words, env=tiny_sweep.environment())
    tiny_sweep.until(lambda: len(tiny_sweep.halfway(root)) == 2)
    both = tiny_sweep.halfway(root)
    cluster.remove_node(second, allow_graceful=False)
    tiny_sweep.until(lambda: sum(map(tiny_sweep.is_alive, both)) == 1)
    assert tiny_sweep.halfway(root) == both
    assert sweep.wait(240) == 0
    words = tiny_sweep.command(local, "workers")
    subprocess.run(words, env=tiny_sweep.environment(), stdout=subprocess.DEVNULL, check=True)
    assert len(tiny_sweep.results(local)) == 8
    assert tiny_sweep.results(root) == tiny_sweep.results(local)
