"""Watch an attempt from inside: end it when a part of it has died or hangs, and it would otherwise wait for ever.

The parts are Ray's daemons, the launcher's processes and the actors of the run. A thread looks every second. If one
of them has died, the thread writes down which, interrupts the training and, if that does not end it, ends the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.attempt.dead_actors import Asked, is_known
from experiments.attempt.memory_peak import MemoryPeak
from experiments.attempt.ray_waits import ray_waits
from experiments.attempt.stacks import write_stacks
from experiments.attempt.stall import Stall
from experiments.processes import endings, reaping
from experiments.processes.cgroup import MemoryKills
from experiments.processes.helper import PID
from experiments.store.events import Event
from experiments.store.failures import KILLED, RESUMES, STALLED, Failure, how, last_lines, of_memory
from experiments.store.files import write_atomically
from experiments.store.metrics import step_times
from experiments.store.rundir import STACKS, VERDICT, Attempt, RunDir
from experiments.variables import CLUSTER, EXECUTION, FORK_SOCKET, SUPERVISOR

POLL_SECONDS = 1.0
OWN_WORDS_SECONDS = 3.0  # a training that notices the death itself ends by an exception of its own
END_SECONDS = 8.0  # how long an interrupted training may take to end
LATE_SECONDS = 2.0  # how much later than the exception the death may be known
KNOWN_STEPS = 3
MORE_OF_RAY = "give Ray what it waits for (ray_kwargs.ray_init.num_cpus, hardware.gpus_per_node), and start again"
# In an exception that a death may have caused.
OF_A_DEATH = r"died|[Uu]navailable|RPC|Rpc|GCS|raylet|[Cc]rashed|[Dd]isconnect|closed|remote (worker|process)"


class Watch:
    """The thread that watches; `over` ends it, and `verdict` is what it found."""

    def __init__(
        self, run: RunDir, attempt: Attempt, config: Mapping[str, Any], at_end: Callable[[Failure], None]
    ) -> None:
        """`at_end` records the failure if the process has to be ended here."""
        self.run, self.attempt, self.at_end = run, attempt, at_end
        self.stall = Stall(run, attempt, config)
        self.verdict: Failure | None = None
        self.cluster = Path(os.environ[CLUSTER]) if CLUSTER in os.environ else None
        self.forks = Path(os.environ[FORK_SOCKET]).parent if FORK_SOCKET in os.environ else None
        self.head = _pid(self.cluster) if self.cluster is not None else 0
        self.supervisor = int(os.environ.get(SUPERVISOR, 0))
        self.daemons: dict[int, str] = {}
        self.asked, self.kills = Asked(), MemoryKills()
        on_cpu = config["trainer"]["device"] == "cpu"  # only there a plan asks for the peak
        self.memory = MemoryPeak(run.path, attempt, self.head, self.forks) if on_cpu else None
        self._over, self._known, self._warned = threading.Event(), is_known(), False
        threading.Thread(target=self._watch, daemon=True).start()

    def over(self) -> None:
        """Stop watching: the training has ended."""
        self._over.set()

    def explain(self, error: Exception) -> None:
        """Look once more for what died, since the training has ended by this exception; note it as the verdict."""
        deadline = time.monotonic() + (LATE_SECONDS if re.search(OF_A_DEATH, repr(error)) else 0.0)
        self._note(self.look())
        while self.verdict is None and time.monotonic() < deadline:
            time.sleep(0.1)
            self._note(self.look())

    def of_memory(self, failure: Failure) -> Failure:
        """Return a failure of this attempt; out of memory, if the kernel has killed a process of it for that."""
        return of_memory(failure, self.kills.number(), in_job=bool(self.supervisor))

    def look(self) -> str | None:
        """Return in words what has died; None if nothing has."""
        if self.supervisor and os.getppid() != self.supervisor:
            # Whoever ended it (`scancel --batch`, the kernel for memory) ended the job: its nodes are no longer ours.
            return _words("the process of the SLURM job that takes care of the attempt", self.supervisor, None)
        if self.cluster is not None:
            for pid, (name, code) in endings.noted(self.cluster).items():
                if name in endings.DAEMONS:
                    return _words(f"Ray's {name}", pid, code)
        self.daemons |= endings.daemons_of(os.getpid())
        for pid, name, code in endings.ended(self.daemons):
            return _words(f"Ray's {name}", pid, code)
        if self.head and not endings.lives(self.head):
            return _words("the Ray head of the launch", self.head, None)
        if self._known:
            for name, pid in self.asked.dead():
                forks = endings.noted(self.forks) if self.forks is not None else {}
                return _words(f"the actor {name}", pid, forks[pid][1] if pid in forks else None)
        return None

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            if found := self.look():
                if self._over.wait(OWN_WORDS_SECONDS):
                    return
                self._note(found)
                self._end()
                return
            if found := self.stall.look():
                self._note_stall(found)
                self._end()
                return
            self._warn_once()
            if self.memory is not None:
                self.memory.look()

    def _warn_once(self) -> None:
        """Warn of keys of the watchdog that allow less than a step takes, as soon as some steps are known."""
        if self._warned or len(step_times(self.run)) < KNOWN_STEPS:
            return
        self._warned = True
        if text := self.stall.too_short():
            self.run.record(Event.WARNED, step=self.run.last_step(), text=text)

    def _note_stall(self, found: str) -> None:
        stacks = self.attempt.path / STACKS
        write_stacks(self.run.path, stacks)
        last, waits = "; ".join(last_lines(self.attempt.log, 3)), ray_waits()
        remedy = f"{MORE_OF_RAY}; {stacks} has the stacks" if waits else f"{RESUMES}; {stacks} has the stacks"
        self._decide(Failure(STALLED, "; ".join(filter(None, (found, waits, f"the log ends: {last}"))), remedy))

    def _note(self, found: str | None) -> None:
        if found is not None and self.verdict is None:
            self._decide(Failure(KILLED, found, RESUMES))

    def _decide(self, verdict: Failure) -> None:
        self.verdict = verdict = self.of_memory(verdict)
        print(f"{verdict.cause}: the attempt is ended", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            write_atomically(self.attempt.path / VERDICT, json.dumps(self.verdict.__dict__) + "\n")

    def _end(self) -> None:
        """Interrupt the main thread, and end the process if it does not end by that."""
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(END_SECONDS) and self.verdict is not None:
            if self.supervisor:
                reaping.reap(self.run.path, execution=os.environ.get(EXECUTION))
            self.at_end(self.verdict)
            os._exit(1)


def _words(name: str, pid: int, code: int | None) -> str:
    return f"{name} (process {pid}) {how(code)}"


def _pid(folder: Path) -> int:
    try:
        return int((folder / PID).read_text())
    except (OSError, ValueError):
        return 0
