"""A disk that is full when a queued run's job starts, or fills up while it trains: what is said then, and later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments.store.rundir import find_runs
from tests.e2e.training import clean_environment
from tests.slurm.cluster import Cluster
from tests.small_disk import fill, run_on_small_disk

PROJECT = Path(__file__).parents[2]
STANDIN = Path(__file__).parent / "standin"
LATER = "+hydra.launcher.sbatch.begin=now+1hour"


@pytest.mark.parametrize("when", ["at its start", "in a step"])
def test_a_job_whose_disk_is_full(when: str, tmp_path: Path) -> None:
    """The disk is a small file system in a mount namespace, in which the cluster is, too."""
    run_on_small_disk("tests.slurm.test_full_disk", "16m", tmp_path, 300, when)


def main(disk: Path, when: str) -> None:
    with Cluster(nodes=1) as cluster:
        environment = {**clean_environment(), **cluster.environment, "PYTHONPATH": str(PROJECT)}

        def say(words: Sequence[str], code: int = 0) -> str:
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=disk, env=environment, capture_output=True, text=True, timeout=120
            )
            said = " ".join((done.stdout + done.stderr).split())  # lines are broken to a width
            assert done.returncode == code and "Traceback" not in said, said
            return said

        behaviours = disk / "behaviours.json"
        behaviours.write_text("{}")
        setup = f"export PYTHONPATH=$PYTHONPATH:{STANDIN} STANDIN={behaviours}"  # no veRL trains here
        small = ["hydra.launcher.mem=1000M", "hydra.launcher.cpus_per_task=1", f"hydra.launcher.setup=['{setup}']"]
        told = disk.with_name(f"{disk.name}-told")
        command = [
            *("experiments.run", "experiment=smoke", "hydra/launcher=slurm", "trainer.total_training_steps=1000"),
            *("trainer.test_freq=-1", f"notify='cat >>{told}'", *small),
        ]
        say([*command, LATER])
        (run,) = find_runs(disk / "runs")
        (job,) = cluster.run("squeue", "-h", "-o", "%i").split()
        if when == "at its start":
            fill(disk / "filler")
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        if when == "in a step":
            cluster.wait(lambda: run.last_step() >= 3, "three steps")
            fill(disk / "filler")
        cluster.wait(lambda: not cluster.run("squeue", "-h"), "the job's end")
        assert bool(run.attempts()) == (when == "in a step")
        assert f"{run.id}" in say(["experiments.runs", "list"]), "it can be listed although nothing can be recorded"
        (disk / "filler").unlink()
        shown = say(["experiments.runs", "show", run.id])
        assert "kind=disk full cause=no room left where " in shown and "make room" in shown, shown
        assert told.exists() == (when == "in a step"), "who asked for it is told of a run that began"
        say([*command, LATER])
        assert run.state() == "queued", "the same command submits it again"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
