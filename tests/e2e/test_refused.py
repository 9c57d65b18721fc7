"""A run that preflight refuses is trained anyway: it fails as predicted. A larger model would fail minutes later."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from experiments.store.rundir import RunDir
from tests.e2e.training import Command, clean_environment, left_behind, rows
from tests.experiments.right_config import problems_of

MICRO = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"


def test_a_micro_batch_that_does_not_divide(straight: Command, folder: Path) -> None:
    """The config is that of a finished run with one other number. No plan has checked it."""
    config = straight.run.load_config()
    assert problems_of(config) == []
    config["actor_rollout_ref"]["actor"]["ppo_micro_batch_size_per_gpu"] = 32
    (problem,) = problems_of(config)
    assert problem == f"{MICRO} must divide the 80 samples of a GPU, but is 32; set {MICRO}=20"
    run = RunDir(folder / "refused" / "a-00000001")
    config["trainer"] |= {"default_local_dir": str(run.checkpoints), "val_before_train": False}
    run.create(json.dumps(config), {}, config)
    command = [sys.executable, "-m", "experiments.attempt", str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=clean_environment())
    assert done.returncode == 1, done.stdout + done.stderr
    failed = run.events()[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "configuration")
    assert failed["cause"].startswith("AssertionError: data size must be divisible by ")
    assert 1 not in rows(run), "it sampled, and could not train"
    assert left_behind(run) == []
