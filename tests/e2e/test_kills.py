"""A few kills of a real training; `python -m tests.e2e.kills 30` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.kills import Killer


def test_what_was_killed_is_resumed_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    killer = Killer(tmp_path, seed=0)
    killer.run(3)
    assert len(killer.kills) == 3
