"""Run a training on vLLM with a hard time limit: a broken weight sync makes veRL wait for ever."""

from __future__ import annotations

import subprocess
from pathlib import Path

from experiments.processes import reaping
from experiments.store.rundir import find_runs
from tests.e2e.training import Command, arguments, clean_environment

LIMIT_SECONDS = 1800.0  # a training takes 90 s on two idle cores, but CI gives it what other tests leave of them


def train(folder: Path, *overrides: str, **environment: str) -> Command:
    """Run the command to its end or to the limit; in both cases none of its processes is left.

    `environment` replaces variables of its environment.
    """
    folder.mkdir(exist_ok=True)
    command = subprocess.Popen(
        arguments(folder, overrides),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**clean_environment(), **environment},
    )
    try:
        output, _ = command.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()
        output, _ = command.communicate()
        output += f"\nstill running after {LIMIT_SECONDS:g} s"
    runs = find_runs(folder / "runs")
    for run in runs:
        reaping.reap(run.path)
    logs = [attempt.log.read_text(errors="replace")[-5000:] for run in runs for attempt in run.attempts()]
    return Command(command.returncode, "\n".join([output, *logs]), folder / "runs")


def segments() -> set[Path]:
    """Return the named shared memory of this machine; vLLM's queues are such."""
    return set(Path("/dev/shm").glob("psm_*"))
