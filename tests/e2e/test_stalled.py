"""An attempt that hangs is ended as stalled, says where it hung, and can be resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from experiments.store.rundir import STACKS
from tests.e2e.parts import Run
from tests.e2e.training import left_behind

SHORT = ("watch.stalled_seconds=6", "watch.stalled_steps=2")


@pytest.mark.parametrize("kind", ["HFRolloutServer", "attempt"])
def test_a_stopped_process_stalls_the_attempt(folder: Path, kind: str) -> None:
    """SIGSTOP: the process is there, and does nothing. A stopped attempt can't end itself: the launcher does."""
    run = Run(folder / f"stalled-{kind}", *SHORT, "trainer.save_freq=1")
    launcher = run.start()
    saved = run.run.checkpoint_step()
    _, cause = run.lose(launcher, kind, signal.SIGSTOP, patience=300.0)  # three pauses of a busy machine
    assert cause.startswith("failed: stalled: nothing was written for ") and "watch.stalled_seconds=6" in cause, cause
    assert left_behind(run.run, [launcher.pid]) == []
    attempt = run.run.attempts()[-1]
    if kind != "attempt":
        assert "; the log ends: " in cause
        stacks = (attempt.path / STACKS).read_text()
        assert "generate_sequences" in stacks or "ray" in stacks, stacks
    again = run.start()  # it goes on, and its long start is no stall
    assert [event for event in run.run.events() if event["event"] == "resumed"][-1]["step"] >= saved
    again.send_signal(signal.SIGINT)
    again.wait(60)
    assert run.run.state() == "interrupted"
