"""An attempt that hangs is ended as stalled, says where it hung, and can be resumed."""

from __future__ import annotations

import signal
from pathlib import Path

from experiments.store.rundir import STACKS
from tests.e2e.parts import Run

SHORT = ("watch.stalled_seconds=6", "watch.stalled_steps=2")


def test_a_stopped_process_stalls_the_attempt_and_the_run_goes_on(folder: Path) -> None:
    """SIGSTOP: the process is there, and does nothing. A stopped attempt can't end itself: the launcher does."""
    run = Run(folder / "stalled", *SHORT)
    launcher = run.start()
    run.until_recorded(1)  # until a step's time is known, the limit of a start holds
    for kind in ("HFRolloutServer", "attempt"):
        saved = run.run.checkpoint_step()
        _, cause = run.lose(launcher, kind, signal.SIGSTOP, patience=300.0)  # three pauses of a busy machine
        assert cause.startswith("failed: stalled: nothing was written for "), cause
        assert "watch.stalled_seconds=6" in cause, cause
        attempt = run.run.attempts()[-1]
        if kind != "attempt":
            assert "; the log ends: " in cause
            stacks = (attempt.path / STACKS).read_text()
            assert "generate_sequences" in stacks or "ray" in stacks, stacks
        run.get_on(launcher)  # its long start is no stall
        assert [event for event in run.run.events() if event["event"] == "resumed"][-1]["step"] >= saved
    assert run.end(launcher) == []
    assert run.run.state() == "interrupted"
