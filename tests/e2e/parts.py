"""The processes of a live run, by what they are: `python -m tests.e2e.parts [true|false]` kills one of each in turn.

Each time the run is started again from its checkpoint. It must end within SECONDS, and name what was killed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
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
    "hydra.launcher.retries=0",
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
    """A run that is started, loses a part, and is started again."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder, self.overrides = folder, overrides
        folder.mkdir(exist_ok=True)

    @property
    def run(self) -> RunDir:
        (run,) = find_runs(self.folder / "runs")
        return run

    def start(self) -> subprocess.Popen:
        """Start the command; return its process once two more steps are trained."""
        before = max([0, *(run.last_step() for run in find_runs(self.folder / "runs"))])
        with open(self.folder / "printed", "ab") as log:
            launcher = subprocess.Popen(
                arguments(self.folder, [*LONG, *self.overrides]),
                cwd=self.folder,
                env=clean_environment(),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 300
        while not any(run.last_step() >= before + 2 for run in find_runs(self.folder / "runs")):
            assert launcher.poll() is None and time.monotonic() < deadline, (self.folder / "printed").read_text()
            time.sleep(0.1)
        return launcher

    def lose(
        self, launcher: subprocess.Popen, kind: str, number: int = signal.SIGKILL, patience: float = 60.0
    ) -> tuple[float, str]:
        """Kill the part; return the seconds until the attempt's end was recorded, and its cause."""
        events = len(self.run.events())
        victim = next(process for name, process in parts(psutil.Process(launcher.pid)) if name == kind)
        began = time.monotonic()
        os.kill(victim.pid, number)
        while not (
            ends := [event for event in self.run.events()[events:] if event["event"] in ("failed", "interrupted")]
        ):
            assert time.monotonic() < began + patience, f"{kind}: nothing noticed"
            time.sleep(0.05)
        seconds = time.monotonic() - began
        launcher.wait(60)
        return seconds, f"{ends[0]['event']}: {ends[0].get('kind')}: {ends[0].get('cause')}"


def main() -> None:
    run = Run(Path(tempfile.mkdtemp(prefix="parts-")), f"hardware.fast={sys.argv[1] if len(sys.argv) > 1 else 'true'}")
    killed: set[str] = set()
    while True:
        launcher = run.start()
        there = {kind for kind, _ in parts(psutil.Process(launcher.pid))}
        if not there - killed:
            launcher.send_signal(signal.SIGINT)
            launcher.wait(60)
            break
        kind = min(there - killed)
        killed.add(kind)
        seconds, cause = run.lose(launcher, kind)
        print(f"{kind:28} {seconds:5.1f} s  {cause[:220]}", flush=True)
        assert not left_behind(run.run, [launcher.pid]), left_behind(run.run, [launcher.pid])
    print(f"killed: {sorted(killed)}")


if __name__ == "__main__":
    main()
