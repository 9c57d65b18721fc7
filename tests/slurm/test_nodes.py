"""Real veRL on two nodes of one allocation: a Ray of its own, one worker on each node, and nothing left of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.rundir import find_runs
from tests.e2e.training import clean_environment, left_behind
from tests.slurm.cluster import Cluster


def test_one_training_on_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    overrides = [
        "experiment=smoke",
        "hydra/launcher=slurm",
        "hydra.launcher.wait=true",
        "hardware.nodes=2",
        "trainer.test_freq=100",
        f"runs_dir={tmp_path / 'runs'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**clean_environment(), **cluster.environment},
        timeout=500,
    )
    assert find_runs(tmp_path / "runs"), done.stdout + done.stderr
    (run,) = find_runs(tmp_path / "runs")
    log = run.attempts()[-1].log.read_text(errors="replace") if run.attempts() else ""
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{(run.path / 'job.log').read_text()}\n{log[-5000:]}"
    assert run.state() == "finished" and run.last_step() == 2
    assert sorted(run.checkpoints.glob("global_step_2/actor/model_world_size_2_rank_*.pt")), "two ranks"
    cluster.wait(lambda: not cluster.run("squeue", "-h"), "the allocation given back")
    assert not left_behind(run)
