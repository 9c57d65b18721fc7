"""What a local launch trains with is what was there when it was launched; shown with real trainings."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from experiments.rundir import find_runs
from tests.e2e.training import arguments, clean_environment, rows

REWARD = """
import experiments


def compute_score(*args, **kwargs):
    return {"score": SCORE, "copied": float("/.code/" in experiments.__file__)}
"""


@pytest.mark.parametrize(("fast", "seeds"), [("true", 2), ("false", 1)])
def test_a_reward_that_is_edited_after_the_launch_is_not_what_scores(folder: Path, fast: str, seeds: int) -> None:
    """On the fast path with a second arm that waits its turn; on the plain one before anything has imported it."""
    place = folder / f"frozen-{fast}"
    place.mkdir()
    reward = place / "reward.py"
    reward.write_text(REWARD.replace("SCORE", "0.25"))
    overrides = [
        f"reward.custom_reward_function.path={reward}",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "tracking=none",
        f"hardware.fast={fast}",
        "seed=" + ",".join(map(str, range(1, seeds + 1))),
    ]
    command = subprocess.Popen(
        arguments(place, overrides),
        cwd=place,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(run.attempts() for run in find_runs(place / "runs")):
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)
    reward.write_text(REWARD.replace("SCORE", "0.75"))
    output, _ = command.communicate(timeout=400)
    assert command.returncode == 0, output
    runs = find_runs(place / "runs")
    assert len(runs) == seeds
    for run in runs:
        row = rows(run)[1]
        assert (row["critic/score/mean"], row["reward/copied/mean"]) == (0.25, 1.0)
