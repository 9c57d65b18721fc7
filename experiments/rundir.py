"""A run's folder: what is in it, who writes it, and what state it is in.

    runs/<name>-<id>/
        config.yaml            the frozen, fully resolved config (written once)
        code.json              the commit, the uncommitted diff's hash, versions (written once)
        events.jsonl           append-only, fsynced: planned, launched, started, resumed, checkpoint, finished, ...
        lock                   held (flock) by whoever executes the run; its owner's death releases it
        checkpoints/           veRL's global_step_<n>/ and latest_checkpointed_iteration.txt
        attempts/<k>/          one execution: log, metrics.jsonl, rollouts/, validation/, wandb/, job.json

Light: imports neither torch, ray, veRL nor wandb.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError

FORMAT = 1
TERMINAL = ("finished", "failed", "interrupted", "cancelled")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a kill at any moment leaves the old file or the new one, never a torn one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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

    def create(self, config: str, code: Mapping[str, Any]) -> None:
        """Make the folder with its frozen config and code; leave what is already there as it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "code.json").exists():
            write_atomically(self.path / "code.json", json.dumps({"format": FORMAT, **code}, indent=1) + "\n")
        if not self.config_file.exists():
            write_atomically(self.config_file, config)
            self.record("planned")

    def load_config(self) -> dict[str, Any]:
        """Return the frozen config as plain dicts and lists; UserError if the folder is not a run of ours."""
        import yaml

        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            config = yaml.load(self.config_file.read_text(encoding="utf-8"), Loader=loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{self.path} must be a run's folder, but its config.yaml can't be read: {error}") from None
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} must hold a mapping, but holds {type(config).__name__}; move it away")
        return config

    def record(self, event: str, **fields: Any) -> None:
        """Append one event; it is on the disk when this returns. A torn last line is closed first."""
        line = (json.dumps({"time": time.time(), "event": event, **fields}) + "\n").encode()
        descriptor = os.open(self.events_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            while line:  # on a full disk the first write may take a part, the next one raises
                line = line[os.write(descriptor, line) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

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
        """Return the step of the newest complete checkpoint, 0 without one."""
        try:
            return int((self.checkpoints / "latest_checkpointed_iteration.txt").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def state(self) -> str:
        """Return planned, running, finished, failed, interrupted, cancelled or killed (died without a word)."""
        last = "planned"
        for event in self.events():
            if event.get("event") in ("started", *TERMINAL):
                last = event["event"]
        if last != "started":
            return last
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
        """Hold the run while executing it; UserError if another living process does."""
        deadline = time.monotonic() + 0.5  # whoever asks `is_locked` has it for an instant: that is no second holder
        with open(self.path / "lock", "a+b") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        problem = f"{self.path.name} must not run twice, but is running already; wait for it"
                        raise UserError(problem) from None
                time.sleep(0.01)
            yield


def find_runs(runs_dir: Path) -> list[RunDir]:
    """Return the runs under `runs_dir`, by name; an empty list if there is no such folder."""
    try:
        entries = sorted(runs_dir.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [RunDir(entry) for entry in entries if (entry / "config.yaml").is_file()]
