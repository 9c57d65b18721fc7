"""hydra/launcher=submitit_slurm, Hydra's own plugin, works with this project as it does elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from experiments.store.rundir import find_runs
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import STANDIN


def test_a_sweep_of_which_one_run_fails(cluster: Cluster, tmp_path: Path) -> None:
    """It waits for its jobs, in which our local launcher trains. A failed run is named, and gives the exit code."""
    behaviours = tmp_path / "behaviours.json"
    behaviours.write_text('{"2": "raise"}')
    setup = f"export PYTHONPATH={STANDIN} STANDIN={behaviours}"
    overrides = [
        "experiment=smoke",
        "hydra/launcher=submitit_slurm",
        "hardware.fast=false",  # so that the stand-in trains in plain processes
        "seed=1,2",
        "trainer.total_training_steps=4",
        f"runs_dir={tmp_path / 'runs'}",
        f"data_dir={tmp_path / 'data'}",
        "hydra.launcher.mem_gb=1",
        "hydra.launcher.cpus_per_task=1",
        f"hydra.launcher.setup=['{setup}']",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.run", "-m", *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=cluster.environment,
        timeout=180,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "seed=2" in done.stderr and "error: the run ended with 1" in done.stderr and "Traceback" not in done.stderr
    first, second = find_runs(tmp_path / "runs")
    assert (first.state(), second.state()) == ("finished", "failed"), done.stderr
    assert "the loss is not what it was" in second.events()[-1]["cause"]
