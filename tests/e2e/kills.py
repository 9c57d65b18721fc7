"""SIGKILL at random moments of real trainings: `python -m tests.e2e.kills KILLS [SEED]`.

A run is started, killed at a random moment (the attempt, the launcher, or both), started again, and so on until it is
through; then the next run, until KILLS processes or pairs of them were killed. After each kill no row that was on the
disk may be gone; each run must end with the rows of a run that nobody killed.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.rundir import RunDir, find_runs
from tests.e2e.training import arguments, clean_environment, left_behind, numbers, rows, train

STEPS = 6
OVERRIDES = (f"trainer.total_training_steps={STEPS}", "tracking=none")
TARGETS = ("attempt", "launcher", "both")
TOLERANCE = 1e-5


class Killer:
    """Starts runs in a folder and kills them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.launchers: list[int] = []  # the process ids of those that were killed
        self.expected = self._straight()
        self.kills: list[tuple[str, float, int]] = []  # (target, seconds after the command, step on the disk)

    def _straight(self) -> dict[int, dict[str, float]]:
        began = time.monotonic()
        done = train(self.folder / "straight", *OVERRIDES)
        assert done.code == 0, done.output
        self.longest = 1.1 * (time.monotonic() - began)  # seconds from the command to a kill: up to past the run's end
        return {step: numbers(row) for step, row in rows(done.run).items()}

    def run(self, kills: int) -> None:
        """Kill until `kills` are done; AssertionError if anything was lost, doubled or changed."""
        number = 0
        while len(self.kills) < kills:
            number += 1
            place = self.folder / f"run{number}"
            place.mkdir()
            while len(self.kills) < kills and not self._attempt_and_kill(place):
                pass
            done = train(place, *OVERRIDES)  # the next command resumes, or says that it is done
            assert done.code == 0, done.output
            self._compare(done.run)
            left = left_behind(done.run, self.launchers)
            assert not left, left
            shutil.rmtree(place)

    def _attempt_and_kill(self, place: Path) -> bool:
        """Start the command and kill it at some moment; return whether it came to its end before."""
        launcher = subprocess.Popen(
            arguments(place, OVERRIDES),
            cwd=place,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.launchers.append(launcher.pid)
        moment, target = self.random.uniform(1.0, self.longest), self.random.choice(TARGETS)
        try:
            code = launcher.wait(moment)
        except subprocess.TimeoutExpired:
            pass
        else:
            assert code == 0
            return True
        before = {run.path: rows(run) for run in find_runs(place / "runs")}
        victims = list(self._victims(place, launcher, target))
        if not victims:  # no attempt has started yet
            target = "launcher"
            victims = list(self._victims(place, launcher, target))
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        if target == "attempt":
            launcher.wait(90)
        else:
            launcher.kill()
            launcher.wait()
        self.kills.append((target, moment, max((max(history, default=0) for history in before.values()), default=0)))
        for run in find_runs(place / "runs"):
            history = rows(run)
            for step, row in before.get(run.path, {}).items():
                assert history[step].items() >= row.items(), f"step {step} was on the disk before the kill"
        return False

    @staticmethod
    def _victims(place: Path, launcher: subprocess.Popen, target: str) -> Iterator[psutil.Process]:
        if target in ("attempt", "both"):
            for run in find_runs(place / "runs"):
                started = [event for event in run.events() if event["event"] == "started"]
                if started and psutil.pid_exists(started[-1]["pid"]):
                    yield psutil.Process(started[-1]["pid"])
        if target in ("launcher", "both"):
            yield psutil.Process(launcher.pid)

    def _compare(self, run: RunDir) -> None:
        history = rows(run)
        assert sorted(history) == sorted(self.expected), "every step once, and validation before training"
        for step, expected in self.expected.items():
            got = numbers(history[step])
            for key, value in expected.items():
                limit = TOLERANCE * max(1.0, abs(value))
                assert abs(got[key] - value) <= limit, f"step {step} {key}: {got[key]} instead of {value}"


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    start = time.monotonic()
    killer = Killer(folder, seed)
    try:
        killer.run(kills)
    finally:
        for target, moment, step in killer.kills:
            print(f"{target:9} killed {moment:5.1f} s after the command, rows to step {step} on the disk")
        print(f"{len(killer.kills)} kills in {(time.monotonic() - start) / 60:.1f} minutes")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
