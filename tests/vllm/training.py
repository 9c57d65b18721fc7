"""A training on vLLM under a hard limit: a weight sync that breaks makes veRL wait for ever."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from experiments import processes
from experiments.rundir import find_runs
from tests.e2e.training import Command, arguments, clean_environment

SHARED_MEMORY = Path("/dev/shm")
LIMIT_SECONDS = 800.0  # one takes 90 s on two cores that do nothing else


def train(folder: Path, *overrides: str) -> Command:
    """Run the command to its end, or to the limit; nothing of it is left in either case."""
    folder.mkdir(exist_ok=True)
    before = set(SHARED_MEMORY.glob("psm_*"))
    command = subprocess.Popen(
        arguments(folder, overrides),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )
    try:
        output, _ = command.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        command.kill()
        output, _ = command.communicate()
        output += f"\nstill running after {LIMIT_SECONDS:g} s"
    runs = find_runs(folder / "runs")
    for run in runs:
        processes.reap(run.path)
    for segment in set(SHARED_MEMORY.glob("psm_*")) - before - mapped():
        segment.unlink()  # vLLM's queues: Ray ends its processes before they, or Python's tracker, could
    logs = [attempt.log.read_text(errors="replace")[-5000:] for run in runs for attempt in run.attempts()]
    return Command(command.returncode, "\n".join([output, *logs]), folder / "runs")


def mapped() -> set[Path]:
    """Return the files that a living process has mapped into its memory."""
    found = set()
    for process in psutil.process_iter():
        try:
            found |= {Path(region.path) for region in process.memory_maps(grouped=True)}
        except (psutil.Error, OSError):
            continue
    return found
