"""veRL's own task runner dies, on the plain path, where veRL starts a Ray cluster of its own."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.parts import SECONDS
from tests.e2e.training import Command, left_behind


def test_a_dead_task_runner_is_noticed_by_name_and_nothing_is_left(own: Callable[[str], Command]) -> None:
    run = own("false").run
    failed = run.events()[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "killed")
    assert "TaskRunner" in failed["cause"], failed
    killed = run.attempts()[0].metrics.stat().st_mtime  # when its second step was recorded
    assert failed["time"] - killed < SECONDS
    assert left_behind(run) == []
