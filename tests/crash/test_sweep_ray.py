"""A Ray cluster that loses a node while its trials run: they go on, on the other node."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pli_train.commands import sweep
from pli_train.core.run_format import run_folder
from pli_train.sweep import space_reading
from tests.crash.studies import check, kill_worker, workers
from tests.sweeping import write_config
from tests.warm import ROOT

pytestmark = pytest.mark.crash

STEPS = 100


@pytest.fixture
def cluster(monkeypatch):
    """A cluster on this machine, with one node of one core; `cluster.add_node()` adds another."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'pli[ray]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default: tests that run beside it would take all cores
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    node = {"num_cpus": 1, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    yield made
    ray.shutdown()
    made.shutdown()


def on(node, pid):
    """Whether a process was started by a worker of a node."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return f"RAY_RAYLET_PID={raylet(node).pid}".encode() in words


def raylet(node):
    return node.all_processes["raylet"][0].process


def test_a_trial_of_a_node_that_is_lost_goes_on_on_the_other(cluster, corpus, tmp_path):
    """The node's processes are killed: Ray's, and the trial's after its first checkpoint."""
    from pli_train.sweep.launchers.ray import RayLauncher

    second, study, lost = cluster.add_node(num_cpus=1), tmp_path / "study", []
    toml = write_config(tmp_path / "mini.toml", corpus, train={"steps": STEPS, "eval_every": 50})
    settings = sweep.settings_of(
        space_reading.from_grid(toml, ["growth.initializer=random,clone"], 1), "tokens", None, None, "none", 0, False
    )

    def lose():
        while not lost:
            time.sleep(0.01)
            for name, pid in workers(study).items():
                if on(second, pid) and any(run_folder.checkpoints(study / "runs" / name)):
                    os.kill(raylet(second).pid, signal.SIGKILL)
                    lost.append((name, kill_worker(study, name, pid)))

    killer = threading.Thread(target=lose, daemon=True)
    killer.start()
    launcher, said = RayLauncher(2, 1, {"address": cluster.address}), []
    sweep.sweep(settings, study, 0, launcher, say=said.append)
    ((name, hit),) = lost
    assert hit and sum(line.startswith(f"{name}: ") for line in said) == 1
    check(study, 2)
