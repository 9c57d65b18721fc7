"""A run's folder: what is in it, who writes it, and what state it is in.

    runs/<name>-<id>/
        config.yaml            the frozen, fully resolved config (written once)
        config.json            the same, for a command that reads a thousand of them (YAML takes 40 times as long)
        code.json              the folder's format, the commit, the uncommitted diff, versions (written once)
        events.jsonl           append-only, fsynced: planned, launched, started, resumed, checkpoint, finished, ...
        lock                   held (flock) by whoever executes the run; its owner's death releases it
        launcher.lock          held likewise by the launcher that sees to it
        checkpoints/           veRL's global_step_<n>/ and latest_checkpointed_iteration.txt
        attempts/<k>/          one execution: log, metrics.jsonl, noted.json, rollouts/, validation/, wandb/, job.json

Light: imports neither torch, ray, veRL nor wandb.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError

FORMAT = 1
NOTED_ROW = "noted.json"  # in an attempt's folder: the last step's row that metrics.jsonl may not have got
TERMINAL = ("finished", "failed", "interrupted", "cancelled")
STATES = ("planned", "queued", "running", "finished", "failed", "interrupted", "killed", "cancelled")


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` to `path` so that a kill at any moment leaves the old file or the new one, never a torn one.

    `durable`: so that a power cut does, too.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def append_line(path: Path, text: str) -> None:
    """Append a line to a file; it is on the disk when this returns. A torn last line is closed first."""
    line = f"{text}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:  # on a full disk the first write may take a part, the next one raises
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_jsonl(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return (the whole rows of a JSON-lines file, how many lines were torn or damaged); ([], 0) if it is missing.

    A process killed in the middle of a write leaves a torn last line: it is counted, not raised.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    rows, damaged = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged


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
        """JSON lines {"step": int, "data": {metric: value}}, one a step, each durable as soon as it is written."""
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
        return self.path.name.rsplit("-", 1)[-1]

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

        Of several processes that make the same run at the same time, one does. `parsed`: what the config's YAML says,
        from whoever has it at hand: reading a thousand of them takes half a minute.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.nullcontext() if self.config_file.exists() else self._flock("lock", patience=10.0):
            if not (self.path / "code.json").exists():
                write_atomically(self.path / "code.json", json.dumps({"format": FORMAT, **code}, indent=1) + "\n")
            if not self.config_file.exists():
                write_atomically(self.config_file, config)
                self._write_json(config, self.load_config() if parsed is None else parsed)
                self.record("planned")

    def _write_json(self, config: str, parsed: Mapping[str, Any]) -> None:
        """Write config.json: the config, and the digest of the config.yaml that says the same."""
        copy = {"of": hashlib.sha256(config.encode()).hexdigest(), "config": parsed}
        with contextlib.suppress(TypeError):  # YAML has types that JSON has not: then there is no copy
            text = json.dumps(copy)
            if json.loads(text) == copy:  # torn by a power cut, it is no JSON: config.yaml is read
                write_atomically(self.path / "config.json", text + "\n", durable=False)

    def load_config(self) -> dict[str, Any]:
        """Return the frozen config as plain dicts and lists; UserError if the folder is not a run of ours.

        Read from config.json as long as that is a copy of config.yaml.
        """
        try:
            text = self.config_file.read_bytes()
        except OSError as error:
            raise self._unreadable(error) from None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            copy = json.loads((self.path / "config.json").read_bytes())
            if copy["of"] == hashlib.sha256(text).hexdigest():
                return copy["config"]
        import yaml

        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            config = yaml.load(text.decode(), Loader=loader)
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise self._unreadable(error) from None
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} must hold a mapping, but holds {type(config).__name__}; move it away")
        return config

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} must be a run's folder, but its config.yaml can't be read: {error}")

    def check_format(self) -> None:
        """Raise UserError if a newer version of this project made the folder."""
        try:
            head = (self.path / "code.json").read_bytes()[:80]  # the format comes first, a diff of any length later
        except OSError:
            return
        found = re.match(rb'\s*\{\s*"format":\s*(\d+)', head)
        if found and int(found[1]) > FORMAT:
            problem = f"the format of {self.path} must be at most {FORMAT}, but is {int(found[1])}"
            raise UserError(f"{problem}: a newer version made it; update this one, or choose another runs folder")

    def record(self, event: str, **fields: Any) -> None:
        """Append one event; it is on the disk when this returns. A torn last line is closed first."""
        append_line(self.events_file, json.dumps({"time": time.time(), "event": event, **fields}))

    def events(self) -> list[dict[str, Any]]:
        """Return the events in the order they were written; torn lines are left out."""
        return read_jsonl(self.events_file)[0]

    def attempts(self) -> list[Attempt]:
        """Return the attempts made so far, oldest first."""
        try:
            numbers = sorted(int(entry.name) for entry in (self.path / "attempts").iterdir() if entry.name.isdecimal())
        except FileNotFoundError:
            return []
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
        try:
            step = int((self.checkpoints / "latest_checkpointed_iteration.txt").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return step if (self.checkpoints / f"global_step_{step}").is_dir() else 0

    def reached(self) -> int:
        """Return the step to which the run's results stand: where it finished, else its newest checkpoint."""
        finished = [event.get("step") for event in self.events() if event.get("event") == "finished"]
        return max([self.checkpoint_step(), *(step for step in finished if isinstance(step, int))])

    def state(self, events: Sequence[Mapping[str, Any]] | None = None) -> str:
        """Return one of STATES; killed is one that died without a word. UserError for a newer version's folder.

        `events`: the run's events, for a caller that has read them already.
        """
        self.check_format()
        state = "planned"
        for event in self.events() if events is None else events:
            name = event.get("event")
            if name in ("submitted", "held"):
                state = "queued"
            elif name in ("started", *TERMINAL):
                state = name
            elif name == "launched" and state == "cancelled":  # asked for again
                state = "planned"
        if state != "started":
            return state
        return "running" if self.is_locked() else "killed"

    def is_locked(self) -> bool:
        """Return whether a living process executes the run."""
        try:
            with open(self.path / "lock", "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
        """Hold the run while seeing to its execution; AlreadyRunning if another launcher does."""
        with self._flock("launcher.lock"):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, patience: float = 0.5) -> Iterator[None]:
        deadline = time.monotonic() + patience  # whoever asks `is_locked` has it for an instant: no second holder
        with open(self.path / name, "a+b") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        problem = f"{self.path.name} must not run twice, but is running already; wait for it"
                        raise AlreadyRunning(problem) from None
                time.sleep(0.01)
            yield


def find_runs(runs_dir: Path) -> list[RunDir]:
    """Return the runs under `runs_dir`, by name; an empty list if there is no such folder."""
    try:
        entries = sorted(runs_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [RunDir(entry) for entry in entries if (entry / "config.yaml").is_file()]
