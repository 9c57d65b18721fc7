"""attempt/dead_actors.py and watch.py: a control store that does not answer keeps nobody from seeing what else died."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.attempt import dead_actors
from experiments.attempt.dead_actors import Asked
from experiments.attempt.watch import Watch
from experiments.processes import endings


def test_an_answer_that_comes_late_is_waited_for_and_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    comes, times = threading.Event(), []

    def late() -> list[tuple[str, int]]:
        times.append(time.monotonic())
        comes.wait(60)
        return [("WorkerDict", 7)]

    monkeypatch.setattr(dead_actors, "dead_actors", late)
    monkeypatch.setattr(dead_actors, "ANSWER_SECONDS", 0.05)
    asked = Asked()
    assert asked.dead() == [] and asked.dead() == []
    comes.set()
    monkeypatch.setattr(dead_actors, "ANSWER_SECONDS", 60.0)
    assert asked.dead() == [("WorkerDict", 7)] and len(times) == 1
    assert asked.dead() == [("WorkerDict", 7)] and len(times) == 2


@pytest.mark.parametrize("error", [TimeoutError("of Ray's"), RuntimeError("Ray goes down")])
def test_where_ray_can_t_be_asked_nothing_has_died(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[tuple[str, int]]:
        raise error

    monkeypatch.setattr(dead_actors, "dead_actors", fails)
    asked = Asked()
    assert asked.dead() == [] and asked.dead() == []


def test_a_dead_gcs_server_is_seen_while_ray_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray was asked for dead actors just as its control store died."""
    silent = threading.Event()
    monkeypatch.setattr(dead_actors, "dead_actors", lambda: [("nobody", 1)] if silent.wait(600) else [])
    monkeypatch.setattr(dead_actors, "ANSWER_SECONDS", 0.05)
    watch: Any = SimpleNamespace(
        supervisor=0, cluster=tmp_path, daemons={}, head=0, forks=None, _known=True, asked=Asked()
    )
    assert Watch.look(watch) is None
    endings.note(tmp_path, 12, -9, "gcs_server")
    assert Watch.look(watch) == "Ray's gcs_server (process 12) was killed by SIGKILL"
    silent.set()
