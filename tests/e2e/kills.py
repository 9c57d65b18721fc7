"""Kill real trainings with SIGKILL at random moments: `python -m tests.e2e.kills KILLS [SEED]`.

A run is started, killed at a random moment (the attempt, the launcher, or both), started again, and so on until it is
finished. Then comes the next run, until there were KILLS kills. Every other run saves only every third step, so that a
resumed attempt repeats steps whose rows are already on the disk. After each kill, no row that was on the disk may be
gone. Each run must end with the rows of a run that was never killed, with each step trained once.
"""

from __future__ import annotations

import contextlib
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import psutil

from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir, find_runs
from tests.e2e.training import arguments, clean_environment, left_behind, train

STEPS = 6
OVERRIDES = (f"trainer.total_training_steps={STEPS}", "tracking=none", "hydra.launcher.retries=0")
SAVE_FREQ = (3, 1)
TARGETS = ("attempt", "launcher", "both")
STARTS = 0.25  # the share of kills at any time after the command, which is mostly before the first step
TOLERANCE = 1e-5
TRAINED = "training/global_step"  # only the row of a trained step has it
Rows = list[tuple[int, dict[str, float]]]


def joined(run: RunDir) -> Rows:
    """Return every row that counts, in the order in which they were written.

    A resumed attempt repeats the steps after its checkpoint, so the rows that were written of them before don't count.
    This is written independently of the analysis, which has its own function (analysis/records/history.py).
    """
    kept: Rows = []
    for attempt in run.attempts():
        own = [(int(row["step"]), row["data"]) for row in read_jsonl(attempt.metrics)[0]]
        first = min((step for step, row in own if TRAINED in row), default=math.inf)
        kept = [(step, row) for step, row in kept if step < first] + own
    return kept


def trained_steps(run: RunDir) -> list[int]:
    """Return the steps that led to a run's weights, in the order in which they were trained."""
    return [step for step, row in joined(run) if TRAINED in row]


def _lives(process: subprocess.Popen, seconds: float) -> bool:
    """Return whether a process is still alive after `seconds`."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is None


def determined(row: dict[str, float]) -> dict[str, float]:
    """Return the metrics of a row without times and memory."""
    return {key: float(value) for key, value in row.items() if "timing" not in key and "perf/" not in key}


class Killer:
    """Starts runs in a folder and kills them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.launchers: list[int] = []  # the process ids of all launchers that were started
        self.expected = self._straight()
        self.kills = 0
        self.redone = 0  # how many rows are of steps that a resumed attempt repeated

    def _straight(self) -> dict[int, dict[str, float]]:
        began = time.monotonic()
        done = train(self.folder / "straight", *OVERRIDES)
        assert done.code == 0, done.output
        self.longest = 1.1 * (time.monotonic() - began)  # the latest kill comes a little after a whole run's time
        history = joined(done.run)
        assert [step for step, _ in history] == list(range(STEPS + 1))
        self.step = mean(row["perf/time_per_step"] for _, row in history if TRAINED in row)
        return {step: determined(row) for step, row in history}

    def run(self, kills: int) -> None:
        """Kill until `kills` are done; AssertionError if anything was lost, doubled or changed."""
        number = 0
        while self.kills < kills:
            number += 1
            place = self.folder / f"run{number}"
            place.mkdir()
            self.overrides = [*OVERRIDES, f"trainer.save_freq={SAVE_FREQ[(number - 1) % len(SAVE_FREQ)]}"]
            self.seen: dict[Path, bytes] = {}  # what was on the disk when something was killed
            while self.kills < kills and not self._attempt_and_kill(place):
                pass
            done = train(place, *self.overrides)  # the next command resumes, or says that it is done
            assert done.code == 0, done.output
            self._nothing_is_gone()
            self._compare(done.run)
            left = left_behind(done.run, self.launchers)
            assert not left, left
            shutil.rmtree(place)

    def _attempt_and_kill(self, place: Path) -> bool:
        """Start the command and kill it at some moment; return whether it ended by itself before that."""
        launcher = subprocess.Popen(
            arguments(place, self.overrides),
            cwd=place,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.launchers.append(launcher.pid)
        began, target = time.monotonic(), self.random.choice(TARGETS)
        if not self._wait(place, launcher):
            assert launcher.wait() == 0
            return True
        moment = time.monotonic() - began
        victims = list(self._victims(place, launcher, target))
        if not victims:  # no attempt has started yet
            target = "launcher"
            victims = list(self._victims(place, launcher, target))
        written = [attempt.metrics for run in find_runs(place / "runs") for attempt in run.attempts()]
        self.seen |= {file: file.read_bytes() for file in written if file.exists()}
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        if target == "attempt":
            launcher.wait(90)
        else:
            launcher.kill()
            launcher.wait()
        steps = [step for run in find_runs(place / "runs") for step, _ in joined(run)]
        self.kills += 1
        print(f"{self.kills}: {target} killed {moment:.1f} s after the command, rows to step {max(steps, default=0)}")
        self._nothing_is_gone()
        return False

    def _wait(self, place: Path, launcher: subprocess.Popen) -> bool:
        """Wait until a random moment of a start or, mostly, of a training; return whether the launcher is still alive.

        A moment of a training is a random time after a row was written: it is in a step, a save or a validation.
        """
        if self.random.random() < STARTS:
            return _lives(launcher, self.random.uniform(1.0, self.longest))
        wanted = self._written(place) + self.random.randint(1, 4)
        while self._written(place) < wanted:
            if not _lives(launcher, 0.02):
                return False
        return _lives(launcher, self.random.uniform(0.0, 1.5 * self.step))

    @staticmethod
    def _written(place: Path) -> int:
        """Return how many rows all attempts have written."""
        return sum(file.read_bytes().count(b"\n") for file in place.glob("runs/*/attempts/*/metrics.jsonl"))

    def _nothing_is_gone(self) -> None:
        for file, before in self.seen.items():
            assert file.read_bytes().startswith(before), f"{file} has lost what was in it before a kill"

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
        """Assert that every step was trained once, and that the numbers of steps and validations are as expected.

        An attempt validates the checkpoint that it starts from: there may be more validations than in the straight run.
        """
        history = joined(run)
        written = [row for attempt in run.attempts() for row in read_jsonl(attempt.metrics)[0]]
        self.redone += sum(TRAINED in row["data"] for row in written) - STEPS
        assert [step for step, row in history if TRAINED in row] == list(range(1, STEPS + 1)), "every step once"
        for step, expected in self.expected.items():
            got: dict[str, float] = {}
            for row in (row for own, row in history if own == step):
                got |= row
                for key, value in determined(row).items():
                    limit = TOLERANCE * max(1.0, abs(expected.get(key, value)))
                    message = f"step {step} {key}: {value} instead of {expected.get(key)}"
                    assert abs(value - expected.get(key, value)) <= limit, message
            assert expected.keys() <= got.keys(), f"step {step} lacks {sorted(expected.keys() - got.keys())}"


def main() -> None:
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    start = time.monotonic()
    killer = Killer(folder, seed)
    try:
        killer.run(kills)
    finally:
        print(f"{killer.redone} rows of steps that were made again after a kill")
        print(f"{killer.kills} kills in {(time.monotonic() - start) / 60:.1f} minutes")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
