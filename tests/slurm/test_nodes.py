"""Real veRL on two nodes of one allocation: it has its own Ray, with one worker on each node, and leaves nothing.

It loses the raylet of its second node in the middle, and goes on in the same job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store.rundir import find_runs
from tests.e2e.kills import trained_steps
from tests.e2e.training import clean_environment, left_behind
from tests.slurm.cluster import Cluster

PROJECT = Path(__file__).parents[2]
STEPS = 6
TEARDOWN_SECONDS = 20.0
IN_A_ROOM = os.geteuid() == 0  # without root, the nodes can't have addresses of their own: they share this host's


def test_one_training_on_two_nodes_that_loses_one_of_them(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "experiments.run"),
        "experiment=smoke",
        "hydra/launcher=slurm",
        "hydra.launcher.wait=true",
        "hardware.nodes=2",
        f"trainer.total_training_steps={STEPS}",
        *("trainer.save_freq=1", "trainer.test_freq=100", "trainer.val_before_train=false"),
        f"runs_dir={tmp_path / 'runs'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT)}
    if IN_A_ROOM:
        command = [sys.executable, "-m", "tests.slurm.room", str(tmp_path / "runs"), *command]
    else:
        cluster: Cluster = request.getfixturevalue("cluster")
        environment |= cluster.environment
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=500)
    assert find_runs(tmp_path / "runs"), done.stdout + done.stderr
    (run,) = find_runs(tmp_path / "runs")
    log = run.attempts()[-1].log.read_text(errors="replace") if run.attempts() else ""
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{(run.path / 'job.log').read_text()}\n{log[-5000:]}"
    assert run.state() == "finished" and run.last_step() == STEPS
    assert sorted(run.checkpoints.glob(f"global_step_{STEPS}/actor/model_world_size_2_rank_*.pt")), "two ranks"
    if IN_A_ROOM:
        room = json.loads(done.stdout.splitlines()[-1])
        over = room.pop("over")
        assert room == {"workers": {"n1": 1, "n2": 1}, "killed": 1, "left": []}
        (failed,) = [event for event in run.events() if event["event"] == "failed"]
        assert failed["kind"] == "killed", failed
        (retried,) = [event for event in run.events() if event["event"] == "retried"]
        assert retried["step"] >= 1
        assert trained_steps(run) == list(range(1, STEPS + 1)), "each step once"
    else:
        cluster.wait(lambda: not cluster.run("squeue", "-h"), "the allocation given back")
        over = cluster.over()
        assert not left_behind(run)
    finished = run.events()[-1]
    assert finished["event"] == "finished"
    assert over - finished["time"] < TEARDOWN_SECONDS, "Ray is taken down and the nodes are given back"
