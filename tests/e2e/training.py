"""Running the real command on real veRL, and reading what it left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments import processes
from experiments.rundir import RunDir, find_runs, read_jsonl

SECRET = "5ec4e7" * 6 + "5ec4"  # shaped like a W&B key


@dataclass
class Command:
    """A finished `python -m experiments.run`."""

    code: int
    output: str
    runs_dir: Path

    @property
    def run(self) -> RunDir:
        """The only run of the runs folder."""
        (run,) = find_runs(self.runs_dir)
        return run


def arguments(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command line of a smoke run in `folder`."""
    paths = [f"runs_dir={folder / 'runs'}", f"data_dir={folder.parent / 'data'}"]
    return [sys.executable, "-m", "experiments.run", "experiment=smoke", *paths, *overrides]


def train(folder: Path, *overrides: str) -> Command:
    """Run the command to its end."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        arguments(folder, overrides), cwd=folder, capture_output=True, text=True, timeout=420, env=clean_environment()
    )
    return Command(done.returncode, done.stdout + done.stderr, folder / "runs")


def clean_environment() -> dict[str, str]:
    """Return the environment without what a W&B user may have set, but with a key that must show up nowhere."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    return {**plain, "WANDB_API_KEY": SECRET}


def rows(run: RunDir) -> dict[int, dict[str, Any]]:
    """Return every metric of a run by step; a later attempt's row completes an earlier one's."""
    joined: dict[int, dict[str, Any]] = {}
    for attempt in run.attempts():
        for row in read_jsonl(attempt.metrics)[0]:
            joined.setdefault(int(row["step"]), {}).update(row["data"])
    return joined


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a row that training determines: no times, no memory, no differences of round-off."""
    volatile = ("timing", "perf/", "probs_diff", "rollout_corr/", "actor/ppo_kl", "actor/pg_loss")
    return {key: float(value) for key, value in row.items() if not any(part in key for part in volatile)}


def left_behind(run: RunDir) -> list[str]:
    """Return what an ended run left on the machine: processes, temporary folders, shared memory."""
    found = [f"process {process.pid} {process.name()}" for process in processes.of_run(run.path)]
    found += [str(path) for path in Path("/tmp").glob(f"r1z-{run.id}-*")]
    launchers = {path: int(path.name.split("-")[2]) for path in Path("/tmp").glob("r1z-fork-*")}
    found += [str(path) for path, pid in launchers.items() if not psutil.pid_exists(pid)]
    # Ray's object store is a file in /dev/shm that is unlinked as soon as it is mapped: none may have a name.
    found += [str(path) for path in Path("/dev/shm").glob("plasma*")]
    return found
