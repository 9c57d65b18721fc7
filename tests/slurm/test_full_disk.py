"""A disk that is full when a queued run's job starts: what is there of the run, and what is said while it is full."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.store.rundir import find_runs
from tests.e2e.training import clean_environment
from tests.slurm.cluster import Cluster
from tests.small_disk import fill, run_on_small_disk

PROJECT = Path(__file__).parents[2]
LATER = "+hydra.launcher.sbatch.begin=now+1hour"


def test_a_job_that_starts_on_a_full_disk(tmp_path: Path) -> None:
    """The disk is a small file system in a mount namespace, in which the cluster is, too."""
    run_on_small_disk("tests.slurm.test_full_disk", "16m", tmp_path, 300)


def main(disk: Path) -> None:
    with Cluster(nodes=1) as cluster:
        environment = {**clean_environment(), **cluster.environment, "PYTHONPATH": str(PROJECT)}

        def say(words: Sequence[str], code: int = 0) -> str:
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=disk, env=environment, capture_output=True, text=True, timeout=120
            )
            said = " ".join((done.stdout + done.stderr).split())  # lines are broken to a width
            assert done.returncode == code and "Traceback" not in said, said
            return said

        small = ["hydra.launcher.mem=1000M", "hydra.launcher.cpus_per_task=1", "trainer.save_freq=-1"]
        say(["experiments.run", "experiment=smoke", "hydra/launcher=slurm", LATER, *small])
        (run,) = find_runs(disk / "runs")
        (job,) = cluster.run("squeue", "-h", "-o", "%i").split()
        fill(disk / "filler")
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        cluster.wait(lambda: not cluster.run("squeue", "-h"), "the job's end")
        assert not run.attempts()
        assert f"{run.id}" in say(["experiments.runs", "list"]), "it can be listed although nothing can be recorded"
        (disk / "filler").unlink()
        told = say(["experiments.runs", "show", run.id])
        assert "the disk was full" in told and "df -h" in told, told
        say(["experiments.run", "experiment=smoke", "hydra/launcher=slurm", LATER, *small])
        assert run.state() == "queued", "the same command submits it again"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
