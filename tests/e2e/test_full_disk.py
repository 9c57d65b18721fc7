"""A disk that fills up in the middle of a real training."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from experiments.store.rundir import find_runs
from tests.e2e.training import arguments, clean_environment, rows, train
from tests.small_disk import fill, run_on_small_disk


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The second of two runs finds the disk full. The disk is a small file system in a mount namespace."""
    run_on_small_disk("tests.e2e.test_full_disk", "64m", tmp_path, 400)


def main(disk: Path) -> None:
    place = disk / "place"
    place.mkdir()
    overrides = ["trainer.total_training_steps=8", "tracking=none"]
    command = subprocess.Popen(
        arguments(place, [*overrides, "seed=1,2", "hydra.launcher.jobs=1"]),
        cwd=place,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not any(run.checkpoint_step() >= 2 for run in find_runs(place / "runs")):
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)
    run, second = find_runs(place / "runs")
    before = rows(run)
    fill(disk / "filler")
    output, _ = command.communicate(timeout=120)
    assert command.returncode == 1, output
    assert "disk full" in output and "make room" in output and "Traceback" not in output, output
    told = " ".join(output.split())  # lines are broken to a width
    assert f"{second.path.name} failed: disk full: " in told and "MiB free, but has" in told and not second.attempts()
    assert all(rows(run)[step].items() >= row.items() for step, row in before.items())
    (disk / "filler").unlink()
    again = train(place, *overrides)
    assert again.code == 0 and run.state() == "finished", again.output
    assert sorted(rows(run)) == list(range(9))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
