"""A long night in short: `python -m tests.e2e.soak [ATTEMPTS] [KILLS] [SEED]`, 200 attempts and 100 kills unless said.

First ATTEMPTS tiny runs, half of them one after the other, half in pairs. Afterwards there must be no process, port,
shared memory or temporary folder that was not there before, and the launcher must not have grown. Then a sweep of four
runs, two at once, in which KILLS random parts are killed. It must end complete by itself, with each step trained once.
A part is killed once the runs that lose by it have gone on since their last loss: others are not tried again.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from experiments.processes.forks import forks_of
from experiments.store.events import Event
from experiments.store.rundir import RunDir, find_runs
from experiments.variables import MARKER
from tests.e2e.kills import trained_steps
from tests.e2e.parts import parts
from tests.e2e.training import OTHERS_SECONDS, arguments, clean_environment

TINY = ("tracking=none", "trainer.total_training_steps=1", "trainer.test_freq=-1", "trainer.val_before_train=false")
ARMS, STEPS = 4, 250
LONG = (
    *("-m", f"seed={','.join(map(str, range(1, ARMS + 1)))}", "hydra.launcher.jobs=2", "hydra.launcher.retries=1000"),
    *("tracking=none", f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.test_freq=-1"),
    "trainer.val_before_train=false",
)
SETTLED = 10  # runs after which a launcher has everything that it loads
GROWTH_MIB = 20.0  # allowed over all runs that follow


@dataclass(frozen=True)
class Machine:
    """What runs might leave behind."""

    processes: frozenset[int]
    ports: frozenset[int]
    shared: frozenset[str]
    temporary: frozenset[str]

    @classmethod
    def now(cls) -> Machine:
        ours = [p.pid for p in psutil.process_iter(["cmdline"]) if _is_ours(p.info["cmdline"] or [])]
        ports = [c.laddr.port for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        folders = [path.name for path in Path(tempfile.gettempdir()).glob("r1z-*") if path.name != "r1z-devices"]
        shared = [path.name for path in Path("/dev/shm").iterdir()]
        return cls(frozenset(ours), frozenset(ports), frozenset(shared), frozenset(folders))

    def more_than(self, before: Machine) -> list[str]:
        """Return what there is now that was not there before."""
        kinds = ("processes", "ports", "shared", "temporary")
        found = {kind: sorted(getattr(self, kind) - getattr(before, kind)) for kind in kinds}
        return [f"{kind}: {', '.join(map(str, left))}" for kind, left in found.items() if left]


def _is_ours(command: list[str]) -> bool:
    text = " ".join(command)
    return ("experiments." in text and "tests.e2e.soak" not in text) or "ray::" in text or "/raylet" in text


@dataclass
class Memory:
    """How much memory a launcher had, as its runs ended."""

    seen: list[float] = field(default_factory=list)
    """MiB, one for each run that ended."""

    def growth(self) -> float:
        """Return by how many MiB it grew from when it was settled to the end."""
        settled = self.seen[min(SETTLED, len(self.seen) - 1)]
        return max(self.seen[-1] - settled, 0.0)


def tiny_runs(folder: Path, count: int, jobs: int) -> Memory:
    """Train `count` runs of one step with one launcher; AssertionError if one does not finish."""
    seeds = ",".join(map(str, range(1, count + 1)))
    overrides = ("-m", f"seed={seeds}", f"hydra.launcher.jobs={jobs}", *TINY)
    folder.mkdir()
    memory, ended = Memory(), 0
    with open(folder / "output", "w") as output:
        launcher = psutil.Popen(
            arguments(folder, overrides), cwd=folder, env=clean_environment(), stdout=output, stderr=output
        )
        while launcher.poll() is None:
            with contextlib.suppress(psutil.Error):
                now = launcher.memory_info().rss / 2**20
                finished = len(list((folder / "runs").glob("*/checkpoints/global_step_1")))
                memory.seen += [now] * (finished - ended)
                ended = max(ended, finished)
            time.sleep(0.2)
    assert launcher.returncode == 0, (folder / "output").read_text()[-3000:]
    states = [run.state() for run in find_runs(folder / "runs")]
    assert states == ["finished"] * count, states
    return memory


def losing(victim: psutil.Process, folder: Path) -> list[RunDir]:
    """Return the runs that lose by a process's end: its own, or all that are under way if it is the launch's."""
    running = [run for run in find_runs(folder / "runs") if run.is_locked()]
    own = victim.environ().get(MARKER)
    for server in Path(tempfile.gettempdir()).glob("r1z-fork-*"):
        own = next((str(run.path) for run in running if victim in forks_of(server, run.path)), own)
    return [run for run in running if own in (None, str(run.path))]


def has_gone_on(run: RunDir) -> bool:
    """Return whether the attempt that is under way has saved a step of its own."""
    last = {event["event"]: place for place, event in enumerate(run.events())}
    return last.get(Event.CHECKPOINT, -1) > last.get(Event.STARTED, -1)


def killed_sweep(folder: Path, kills: int, draw: random.Random) -> dict[str, int]:
    """Kill random parts of a sweep; return how often each kind was killed."""
    folder.mkdir()
    done: dict[str, int] = {}
    with open(folder / "output", "w") as output:
        launcher = psutil.Popen(
            arguments(folder, LONG), cwd=folder, env=clean_environment(), stdout=output, stderr=subprocess.STDOUT
        )
        while launcher.poll() is None:
            time.sleep(draw.uniform(0.0, 2.0))
            victims: dict[str, list[psutil.Process]] = {}
            for kind, process in parts(launcher) if sum(done.values()) < kills else ():
                victims.setdefault(kind, []).append(process)
            if victims:
                kind = draw.choice(sorted(victims))
                victim = draw.choice(victims[kind])
                with contextlib.suppress(psutil.Error):
                    losers = losing(victim, folder)
                    if losers and all(has_gone_on(run) for run in losers):
                        steps = {run.path: run.checkpoint_step() for run in losers}
                        victim.kill()
                        done[kind] = done.get(kind, 0) + 1
                        names = ", ".join(f"{path.name} at step {step}" for path, step in steps.items())
                        print(f"{sum(done.values())}: {kind} killed: {names}", flush=True)
    assert launcher.returncode == 0, (folder / "output").read_text()[-3000:]
    runs = find_runs(folder / "runs")
    assert [run.state() for run in runs] == ["finished"] * ARMS
    for run in runs:
        assert trained_steps(run) == list(range(1, STEPS + 1)), (run.path.name, trained_steps(run))
    return done


def settled(before: Machine) -> list[str]:
    """Return what is left after a while: helpers of a launcher that has ended may need some seconds."""
    deadline = time.monotonic() + OTHERS_SECONDS
    while (left := Machine.now().more_than(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def main() -> None:
    attempts, kills, seed = (int(value) for value in (*sys.argv[1:], *("200", "100", "0")[len(sys.argv) - 1 :]))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    before = Machine.now()
    for jobs in (1, 2):
        start = time.monotonic()
        memory = tiny_runs(folder / f"jobs{jobs}", attempts // 2, jobs)
        left = settled(before)
        minutes = (time.monotonic() - start) / 60
        print(
            f"{attempts // 2} runs, {jobs} at once: {minutes:.1f} minutes; the launcher had {memory.seen[0]:.0f} to "
            f"{memory.seen[-1]:.0f} MiB, growth after {SETTLED} runs {memory.growth():.1f} MiB; left behind: {left}",
            flush=True,
        )
        assert not left, left
        assert memory.growth() < GROWTH_MIB
    start = time.monotonic()
    done = killed_sweep(folder / "killed", kills, random.Random(seed))
    left = settled(before)
    print(
        f"{sum(done.values())} kills in {(time.monotonic() - start) / 60:.1f} minutes, the sweep ended complete by "
        f"itself; left behind: {left}; {done}"
    )
    assert sum(done.values()) == kills, "the sweep was done before all kills; make it longer"
    assert not left, left
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
