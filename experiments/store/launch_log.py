"""Which runs were asked for together: runs/.launches.jsonl, a line for each command that started or joined runs.

A run's own folder can't tell it: a run may be in several sweeps, and one that was done already is not started again.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from experiments.store.files import append_line, read_jsonl

FILE = ".launches.jsonl"


@dataclass(frozen=True)
class Launch:
    """One command: the ids of its runs, in the order of its plan, and its arguments as they were typed."""

    runs: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def note_launch(runs_dir: Path, launch: Launch) -> None:
    """Add a launch to the file of a runs folder, unless the file has it; a folder that can't be written is passed over.

    The runs themselves do not need the file, so a launch does not fail because of it.
    """
    if launch in read_launches(runs_dir):
        return
    with contextlib.suppress(OSError):
        runs_dir.mkdir(parents=True, exist_ok=True)
        append_line(runs_dir / FILE, json.dumps({"runs": launch.runs, "arguments": launch.arguments}))


def read_launches(runs_dir: Path) -> list[Launch]:
    """Return the launches of a runs folder, oldest first; lines that are torn or not of this form are left out."""
    try:
        rows = read_jsonl(runs_dir / FILE)[0]
    except OSError:
        return []
    lists = [(row.get("runs"), row.get("arguments", [])) for row in rows]
    return [
        Launch(tuple(map(str, runs)), tuple(map(str, arguments)))
        for runs, arguments in lists
        if isinstance(runs, list) and isinstance(arguments, list) and runs
    ]
