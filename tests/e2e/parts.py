"""The processes of a live run, by what they are: `python -m tests.e2e.parts [true|false]` kills one of each in turn.

Each time the launch tries the run again from its checkpoint. The attempt must end within SECONDS, and its cause must
name what was killed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.store.rundir import RunDir, find_runs
from tests.e2e.training import arguments, clean_environment, left_behind

SECONDS = 20.0
LONG = (
    *("trainer.total_training_steps=1000", "trainer.test_freq=-1", "trainer.val_before_train=false", "tracking=none"),
    *("trainer.save_freq=1", "hydra.launcher.retries=100"),
)
# Of a command line: what the process is.
KINDS = (
    (r"^ray::(\w+)", None),
    (r"fork_client\.py \S+ -m experiments\.attempt", "attempt's client"),
    (r"fork_client\.py", "worker's client"),
    (r"/(gcs_server|raylet) ", None),
    (r"experiments\.processes\.(ray_head|fork_server)", None),
    (r"-m experiments\.attempt", "attempt"),
)
# What may end without harm: Ray's idle workers and its helpers.
HARMLESS = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")


def kind_of(command: str) -> str | None:
    """Return what a process of a run is; None for one without which the run goes on."""
    for pattern, name in KINDS:
        if found := re.search(pattern, command):
            kind = name or found[1]
            return None if kind in HARMLESS else kind
    return None


def parts(launcher: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """Yield (what it is, the process) of a launcher's live descendants."""
    for process in launcher.children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            kind = kind_of(command)
            if kind == "fork_server" and process.ppid() != launcher.pid:
                kind = "attempt"  # a fork without a title of its own
        except psutil.Error:
            continue
        if kind is not None:
            yield kind, process


class Run:
    """A run that loses its parts, one after the other, and is tried again by its launch."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder, self.overrides = folder, overrides
        folder.mkdir(exist_ok=True)

    @property
    def run(self) -> RunDir:
        (run,) = find_runs(self.folder / "runs")
        return run

    def start(self) -> psutil.Popen:
        """Start the command; return its process once a step is saved."""
        with open(self.folder / "printed", "ab") as log:
            launcher = psutil.Popen(
                arguments(self.folder, [*LONG, *self.overrides]),
                cwd=self.folder,
                env=clean_environment(),
                stdout=log,
                stderr=log,
            )
        self.get_on(launcher)
        return launcher

    def get_on(self, launcher: psutil.Popen) -> None:
        """Wait until the run has saved a later step: only then is it tried again after a loss."""
        saved = max([0, *(run.checkpoint_step() for run in find_runs(self.folder / "runs"))])
        deadline = time.monotonic() + 300
        while not any(run.checkpoint_step() > saved for run in find_runs(self.folder / "runs")):
            assert launcher.poll() is None and time.monotonic() < deadline, (self.folder / "printed").read_text()
            time.sleep(0.1)

    def until_recorded(self, step: int) -> None:
        """Wait for the step's row: it is written shortly after the step's checkpoint."""
        deadline = time.monotonic() + 60
        while self.run.last_step() < step:
            assert time.monotonic() < deadline, f"step {step} has no row"
            time.sleep(0.05)

    def lose(
        self, launcher: psutil.Popen, kind: str, number: int = signal.SIGKILL, patience: float = 60.0
    ) -> tuple[float, str]:
        """Kill the part; return the seconds until the attempt's end was recorded, and its cause."""
        events = len(self.run.events())
        victim = next(process for name, process in parts(launcher) if name == kind)
        began = time.monotonic()
        os.kill(victim.pid, number)
        while not (
            ends := [event for event in self.run.events()[events:] if event["event"] in ("failed", "interrupted")]
        ):
            assert time.monotonic() < began + patience, f"{kind}: nothing noticed"
            time.sleep(0.05)
        seconds = time.monotonic() - began
        return seconds, f"{ends[0]['event']}: {ends[0].get('kind')}: {ends[0].get('cause')}"

    def lose_each(self, launcher: psutil.Popen) -> Iterator[tuple[str, float, str]]:
        """Kill one part of each kind, each in an attempt of its own; yield its kind, the seconds and the cause."""
        killed: set[str] = set()
        while left := {kind for kind, _ in parts(launcher)} - killed:
            kind = min(left)
            killed.add(kind)
            yield (kind, *self.lose(launcher, kind))
            self.get_on(launcher)

    def end(self, launcher: psutil.Popen) -> list[str]:
        """Interrupt the launch; return what it left behind."""
        launcher.send_signal(signal.SIGINT)
        launcher.wait(60)
        return left_behind(self.run, [launcher.pid])


def main() -> None:
    run = Run(Path(tempfile.mkdtemp(prefix="parts-")), f"hardware.fast={sys.argv[1] if len(sys.argv) > 1 else 'true'}")
    launcher = run.start()
    for kind, seconds, cause in run.lose_each(launcher):
        print(f"{kind:28} {seconds:5.1f} s  {cause[:220]}", flush=True)
    left = run.end(launcher)
    assert not left, left


if __name__ == "__main__":
    main()
