"""Two runs on one node at once: each gets its own trainer's weights, though Ray names both jobs alike.

A third run of veRL's own, with the name that veRL gives every run's socket, is left alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.training import left_behind, rows
from tests.vllm.training import train

STEPS = 3
SHORT = ("hardware=cpu_vllm", "tracking=none", f"trainer.total_training_steps={STEPS}", "trainer.test_freq=-1")


@pytest.fixture
def of_another() -> Iterator[Path]:
    """The socket of another user's run in /tmp, at which nobody answers."""
    path = Path("/tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, 4242, 4242)
        yield path
    path.unlink(missing_ok=True)


def test_two_runs_at_once_do_not_meet(tmp_path: Path, model: Path, of_another: Path) -> None:
    """A higher learning rate moves the second run's weights apart: with the first run's weights it would not agree."""
    common = (*SHORT, f"model.path={model}", "trainer.val_before_train=false", "trainer.save_freq=-1")
    rates = ("4e-4", "4e-2")
    with ThreadPoolExecutor() as both:
        done = list(
            both.map(lambda rate: train(tmp_path / rate, *common, f"actor_rollout_ref.actor.optim.lr={rate}"), rates)
        )
    for command in done:
        assert command.code == 0, command.output
    spans = [[event["time"] for event in command.run.events() if event["event"] != "planned"] for command in done]
    assert max(span[0] for span in spans) < min(span[-1] for span in spans), "they were under way at the same time"
    for command in done:
        history = rows(command.run)
        for step in range(1, STEPS + 1):
            assert history[step]["training/rollout_probs_diff_max"] < 2e-5, (command.run.path.name, step)
        assert left_behind(command.run) == []
    assert list(Path("/tmp").glob("rl-colocate-zmq-*")) == [of_another]
