"""The answers of an evaluation: a folder beside the run's attempts, appended to, so that a kill loses nothing. Light.

evaluations/step_<N>-<name>-<digest>/
    settings.json    all that determines the answers and their scores; the digest in the name is of it
    answers.jsonl    a line an answer, as in a validation's dump, with the problem's number and the answer's
    summary.json     the last result, for programs
    lock             held while answers are added
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.store.files import read_jsonl, write_atomically
from experiments.store.rundir import RunDir
from experiments.values import is_number, is_whole

FOLDER = "evaluations"


@dataclass(frozen=True)
class Answers:
    """The folder of an evaluation."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "answers.jsonl"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from adding answers; UserError if one does."""
        with open(self.path / "lock", "a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"one command at a time must evaluate into {self.path}, but one does; wait") from None
            yield

    def rows(self) -> dict[tuple[int, int], dict[str, Any]]:
        """Return {(problem, sample): its row}; what is torn or no answer is left out."""
        return {
            (row["problem"], row["sample"]): row
            for row in read_jsonl(self.file)[0]
            if is_whole(row.get("problem"), 0) and is_whole(row.get("sample"), 0) and is_number(row.get("acc"))
        }

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append answers; they are on the disk when this returns."""
        text = "".join(json.dumps(row, default=_plain) + "\n" for row in rows)
        with open(self.file, "a+b") as file:
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":  # a kill tore the last line
                text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def opened(run: RunDir, step: int, name: str, settings: Mapping[str, Any]) -> Answers:
    """Return the folder for these settings, made if it is not there."""
    content = json.dumps(settings, sort_keys=True, default=_plain)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    answers = Answers(run.path / FOLDER / f"step_{step}-{name}-{digest}")
    answers.path.mkdir(parents=True, exist_ok=True)
    write_atomically(answers.path / "settings.json", json.dumps(settings, indent=1, default=_plain) + "\n")
    return answers


def _plain(value: Any) -> Any:
    """Return a value of NumPy's as Python's own; a text of anything else that JSON does not have."""
    return value.item() if hasattr(value, "item") else str(value)
