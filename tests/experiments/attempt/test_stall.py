"""attempt/stall.py: how long an attempt may write nothing, and what counts as writing. The clock is the test's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.attempt import stall as module
from experiments.attempt.stall import Stall
from experiments.store.metrics import step_times
from experiments.store.rundir import PHASE, RunDir

WATCH = {"watch": {"start_seconds": 100.0, "stalled_steps": 10.0, "stalled_seconds": 30.0}}


class Attempt:
    """An attempt that writes what the test says, looked at every second."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = RunDir(folder / "a-00000001")
        self.attempt = self.run.new_attempt()
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.stall = Stall(self.run, self.attempt, WATCH)

    def row(self, seconds: float) -> None:
        data = {"training/global_step": 1, "perf/time_per_step": seconds}
        with open(self.attempt.metrics, "a") as file:
            file.write(json.dumps({"step": 1, "data": data}) + "\n")

    def say(self, phase: str) -> None:
        (self.attempt.path / PHASE).write_text(phase)

    def wait(self, seconds: int) -> str | None:
        """Look every second for so long; return what is found, and stop there."""
        for _ in range(seconds):
            self.now += 1.0
            if found := self.stall.look():
                return found
        return None


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    return Attempt(tmp_path, monkeypatch)


def test_a_start_has_a_time_of_its_own(attempt: Attempt) -> None:
    assert attempt.wait(100) is None
    assert "during the start (watch.start_seconds=100)" in str(attempt.wait(5))


def test_ten_median_steps_but_at_least_the_stated_seconds(attempt: Attempt) -> None:
    attempt.say("training")
    attempt.row(1.0)
    assert attempt.wait(30) is None
    assert "in training (watch.stalled_seconds=30, 10 median steps: 10 s, 3 times" in str(attempt.wait(5))


def test_the_rows_are_read_only_when_nothing_was_written_for_long(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch looks every second for days, and a long run has many megabytes of rows."""
    attempt.say("training")
    attempt.row(20.0)
    reads: list[RunDir] = []
    monkeypatch.setattr(module, "step_times", lambda run: reads.append(run) or step_times(run))
    attempt.wait(30)
    assert not reads
    attempt.wait(5)
    assert reads


def test_slow_steps_have_more_time(attempt: Attempt) -> None:
    attempt.say("training")
    attempt.row(20.0)
    assert attempt.wait(200) is None
    assert "10 median steps: 200 s" in str(attempt.wait(5))


@pytest.mark.parametrize("phase", ["validation", "saving"])
def test_a_validation_or_a_checkpoint_has_the_time_of_a_start(attempt: Attempt, phase: str) -> None:
    attempt.row(1.0)
    attempt.say(phase)
    assert attempt.wait(100) is None
    assert attempt.wait(5) is not None


def test_each_write_begins_the_time_anew_but_not_what_is_printed(attempt: Attempt) -> None:
    attempt.say("training")
    attempt.row(1.0)
    for step in range(5):
        assert attempt.wait(25) is None
        shard = attempt.run.checkpoints / f"global_step_{step}" / "actor" / "model.pt"
        shard.parent.mkdir(parents=True)
        shard.write_bytes(b"x" * step)
    attempt.wait(1)
    attempt.stall.longest = 0.0  # of such pauses, three would be allowed
    for _ in range(3):
        attempt.wait(10)
        attempt.attempt.log.write_text(f"{attempt.now} pending: 3\n")
    assert attempt.wait(5) is not None


def test_a_process_that_did_not_run_itself_concludes_nothing(attempt: Attempt) -> None:
    """A laptop that slept, or an attempt that was stopped with its parts and goes on."""
    attempt.say("training")
    attempt.row(1.0)
    attempt.wait(10)
    attempt.now += 10_000
    assert attempt.wait(25) is None


def test_keys_that_allow_less_than_a_step_are_told_and_do_no_harm(attempt: Attempt) -> None:
    attempt.stall.keys |= {"stalled_seconds": 2.0, "stalled_steps": 0.5}
    assert attempt.stall.too_short() is None, "no step is known"
    attempt.say("training")
    attempt.row(8.0)
    attempt.wait(1)
    assert "watch.stalled_steps=0.5 allow 4 s without a row, but a step took 8 s" in str(attempt.stall.too_short())
