"""A run's folder: what is in it, who writes it, and what state it is in.

    runs/<name>-<id>/
        config.yaml            the frozen, fully resolved config (written once); config.json: the same
        config-<digest>.yaml   the config of a later launch that differs in what cannot change the result (frozen.py)
        code.json              the folder's format, the commit, the uncommitted diff, versions (written once)
        events.jsonl           append-only, fsynced: planned, launched, started, resumed, checkpoint, finished, ...
        lock                   held (flock) by the process that executes the run; its death releases the lock
        launcher.lock          held in the same way by the launcher that takes care of the run
        wanted.lock            shared by the launchers that have the run before them: `runs clean` leaves it alone
        checkpoints/           veRL's global_step_<n>/ and latest_checkpointed_iteration.txt
        attempts/<k>/          one execution: log, metrics.jsonl, noted.json, rollouts/, validation/, wandb/, job.json,
                               memory.json (memory_peak.py)
        evaluations/           answers that `runs evaluate` sampled from checkpoints (experiments/trained/answers.py)

Light: imports neither torch, ray, veRL nor wandb.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.store import checkpoints, frozen
from experiments.store.events import Event, State, state_of
from experiments.store.files import append_line, read_jsonl, write_atomically
from experiments.values import at, is_whole

FORMAT = 1
VERDICT = "verdict.json"  # in an attempt's folder: why it ends, if it was ended because a part of it died or hangs
PHASE = "phase"  # in an attempt's folder: training, validation or saving
STACKS = "stacks.txt"  # in an attempt's folder: where its processes were when it was ended as stalled
NOTED_ROW = "noted.json"  # in an attempt's folder: the last step's row, which metrics.jsonl may lack


class AlreadyRunning(UserError):
    """Another living process executes the run."""


@dataclass(frozen=True)
class Attempt:
    """One execution of a run."""

    number: int
    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        """JSON lines {"step": int, "data": {metric: value}}, one per step, each durable as soon as it is written."""
        return self.path / "metrics.jsonl"

    @property
    def rollouts(self) -> Path:
        """<step>.jsonl: every training rollout of the step with its score parts."""
        return self.path / "rollouts"

    @property
    def validation(self) -> Path:
        """<step>.jsonl: every validation rollout of the step with its score parts."""
        return self.path / "validation"


@dataclass(frozen=True)
class RunDir:
    """A run's folder. Creating the object touches nothing on the disk."""

    path: Path

    @property
    def id(self) -> str:
        """The 8 hexadecimal digits at the end of the folder's name; also the run's W&B id."""
        return id_of(self.path.name)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def create(self, config: str, code: Mapping[str, Any], parsed: Mapping[str, Any] | None = None) -> None:
        """Make the folder with its frozen config and code; leave what is already there as it is.

        If several processes make the same run at the same time, one of them does it. `parsed`: the mapping that the
        config's YAML holds, if the caller has it already: reading a thousand of them takes half a minute.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if self.config_file.exists() else self._flock("lock", patience=10.0):
            if not (self.path / "code.json").exists():
                write_atomically(self.path / "code.json", json.dumps({"format": FORMAT, **code}, indent=1) + "\n")
            if not self.config_file.exists():
                frozen.freeze(self.path, config, parsed)
                self.record(Event.PLANNED)

    def load_config(self, name: str | None = None) -> dict[str, Any]:
        """Return a frozen config as plain dicts and lists; UserError if the folder is not a run of ours.

        `name`: of its file; by default the file of the last attempt, or config.yaml if there was no attempt.
        """
        return frozen.load(self.path, name or self._last_config())

    def _last_config(self) -> str:
        names = [event.get("config") for event in self.events() if event["event"] == Event.STARTED]
        return names[-1] if names and isinstance(names[-1], str) else frozen.FIRST

    def check_format(self) -> None:
        """Raise UserError if a newer version of this project made the folder."""
        try:
            with open(self.path / "code.json", "rb") as file:
                head = file.read(80)  # the format comes first, a diff of any length later
                found = re.match(rb'\s*\{\s*"format":\s*(\d+)', head)
                made = int(found[1]) if found else json.loads(head + file.read()).get("format")
        except OSError:
            return
        except (ValueError, AttributeError, RecursionError):  # torn or foreign: reading the config says more
            return
        if isinstance(made, int) and made > FORMAT:
            problem = f"the format of {self.path} must be at most {FORMAT}, but is {made}"
            raise UserError(f"{problem}: a newer version made it; update this one, or choose another runs folder")

    def check(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Raise UserError if the folder exists but is no run of ours, can't be read, or is another run.

        `holds`: says whether a config is this run's.
        """
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UserError(f"{self.path} must be a run's folder, but is a file; move it away")
            self.check_format()
            self.attempts()
            self.events()
            foreign = self.config_file.exists() and not holds(self.load_config())
        except OSError as error:
            problem = f"{self.path} must be a run's folder, but can't be read: {error.strerror}"
            raise UserError(f"{problem}; mend its permissions or move it away") from None
        if foreign:
            raise UserError(f"{self.path} must hold the config of {self.id}, but holds another one; move it away")

    def record(self, event: Event, **fields: Any) -> None:
        """Append one event; it is on the disk when this returns."""
        append_line(self.events_file, json.dumps({"time": time.time(), "event": event, **fields}))

    def events(self) -> list[dict[str, Any]]:
        """Return the events in the order they were written; torn lines are left out."""
        return self.read_events()[0]

    def read_events(self) -> tuple[list[dict[str, Any]], int]:
        """Return (the events in the order they were written, how many lines were torn, damaged or not an event)."""
        rows, damaged = read_jsonl(self.events_file)
        events = [row for row in rows if isinstance(row.get("event"), str)]
        return events, damaged + len(rows) - len(events)

    def attempts(self) -> list[Attempt]:
        """Return the attempts made so far, oldest first."""
        try:
            numbers = sorted(int(entry.name) for entry in (self.path / "attempts").iterdir() if entry.name.isdecimal())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise UserError(f"{self.path} must be a run's folder, but its attempts is a file; move it away") from None
        return [Attempt(number, self.path / "attempts" / str(number)) for number in numbers]

    def new_attempt(self) -> Attempt:
        """Make the folder of the next attempt. Hold the lock while calling."""
        made = self.attempts()
        number = made[-1].number + 1 if made else 1
        attempt = Attempt(number, self.path / "attempts" / str(number))
        attempt.path.mkdir(parents=True)
        return attempt

    def last_step(self) -> int:
        """Return the last step for which any attempt wrote training metrics, 0 if none did."""
        step = 0
        for attempt in self.attempts():
            for row in read_jsonl(attempt.metrics)[0]:
                if "training/global_step" in row.get("data", {}):
                    step = max(step, int(row["step"]))
        return step

    def checkpoint_step(self) -> int:
        """Return the step of the newest complete checkpoint, 0 without one; `runs clean` may have removed it."""
        return checkpoints.newest(self.checkpoints)

    def target_step(self, events: Sequence[Mapping[str, Any]], config: Mapping[str, Any] | None = None) -> int | None:
        """Return the step that the run was last asked to reach, by an event or else by its frozen config.

        None where the number of epochs decides. `config`: the frozen config, for a caller that has loaded it already.
        """
        asked = [event["steps"] for event in events if is_whole(event.get("steps"), 1)]
        if asked:
            return asked[-1]
        steps = at(self.load_config() if config is None else config, "trainer.total_training_steps")
        return steps if is_whole(steps, 1) else None

    def reached(self) -> int:
        """Return the step up to which there are results: of the finish or the newest checkpoint, whichever is later."""
        return max(self.checkpoint_step(), self.finished_step())

    def finished_step(self, events: Sequence[Mapping[str, Any]] | None = None) -> int:
        """Return the last step at which an attempt finished as asked, 0 if none did; a later attempt may go further."""
        events = self.events() if events is None else events
        finished = [event.get("step") for event in events if event.get("event") == Event.FINISHED]
        return max((step for step in finished if isinstance(step, int)), default=0)

    def checkpoint_ranks(self) -> int | None:
        """Return how many processes saved the newest checkpoint, and must read it; None if that is not known.

        veRL names its shards by that number.
        """
        actor = checkpoints.folder(self.checkpoints, self.checkpoint_step()) / "actor"
        names = " ".join(file.name for file in actor.glob("model_world_size_*_rank_0.pt"))
        found = re.search(r"world_size_(\d+)_", names)
        return int(found[1]) if found else None

    def state(self, events: Sequence[Mapping[str, Any]] | None = None) -> State:
        """Return where the run is. UserError for a folder that a newer version made.

        `events`: the run's events, for a caller that has read them already.
        """
        self.check_format()
        return state_of(self.events() if events is None else events, self.is_locked)

    def shown_state(self, events: Sequence[Mapping[str, Any]] | None = None) -> State:
        """Return where the run is, as tables say it: a finished run that was then asked for more steps is planned.

        UserError for a folder that a newer version made. `events`: as in `state`.
        """
        events = self.events() if events is None else events
        state, asked = self.state(events), self.target_step(events)
        more = state == State.FINISHED and asked is not None and asked > self.finished_step(events)
        return State.PLANNED if more and events[-1]["event"] == Event.LAUNCHED else state

    def is_locked(self) -> bool:
        """Return whether a living process executes the run."""
        return self._is_held("lock", fcntl.LOCK_SH)

    def is_wanted(self) -> bool:
        """Return whether a living launcher of this machine has the run before it, or at work."""
        return self._is_held("wanted.lock", fcntl.LOCK_EX)

    def _is_held(self, name: str, kind: int) -> bool:
        """Return whether another process holds a lock so that one of this kind can't be had."""
        try:
            with open(self.path / name, "rb") as file:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
        except FileNotFoundError:
            pass
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run while executing it; AlreadyRunning if another living process does."""
        with self._flock("lock"):
            yield

    @contextlib.contextmanager
    def launching(self) -> Iterator[None]:
        """Hold the run while taking care of its execution; AlreadyRunning if another launcher does."""
        with self._flock("launcher.lock"):
            yield

    @contextlib.contextmanager
    def wanted(self) -> Iterator[None]:
        """Keep the run's checkpoints from being deleted while a launcher has the run before it."""
        with self._flock("wanted.lock", kind=fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def unwanted(self) -> Iterator[None]:
        """Keep launchers from beginning with the run; AlreadyRunning if one has it before it."""
        with self._flock("wanted.lock"):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, patience: float = 0.5, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        deadline = time.monotonic() + patience  # `is_locked` takes it for an instant, and is no holder
        with open(self.path / name, "a+b") as file:
            while True:
                try:
                    fcntl.flock(file, kind | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        problem = f"{self.path.name} must not run twice, but is running already; wait for it"
                        raise AlreadyRunning(problem) from None
                time.sleep(0.01)
            yield


def id_of(name: str) -> str:
    """Return the id at the end of a run's name."""
    return name.rpartition("-")[2]


def find_runs(runs_dir: Path) -> list[RunDir]:
    """Return the runs under `runs_dir`, by name; an empty list if there is no such folder."""
    return [RunDir(entry) for entry in entries(runs_dir) if _has_config(entry)]


def entries(runs_dir: Path) -> list[Path]:
    """Return all that is in a runs folder, by name; an empty list if there is no such folder."""
    try:
        return sorted(runs_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_config(folder: Path) -> bool:
    """Return whether a folder is a run's; one that we may not read counts as none (`runs list` names it)."""
    try:
        return (folder / frozen.FIRST).is_file()
    except OSError:
        return False
