"""Which forks of the fork server belong to which run: /proc shows the environment of the server for each of them.

The server notes each fork in its folder. The run is the one that the request's environment names.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.store.files import read_jsonl

FORKS = "forks"  # in the server's folder: JSON lines {"pid", "run", "server"}


def note_fork(folder: Path, pid: int, run: str | None) -> None:
    """Write down in this server's folder whose fork a process is; nothing if the folder is gone."""
    with contextlib.suppress(OSError), open(folder / FORKS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": pid, "run": run, "server": os.getpid()}) + "\n")


def forks_of(folder: Path, run: Path) -> Iterator[psutil.Process]:
    """Yield the living forks of a run, as the folder of the server tells them.

    The number of a fork that has ended may have gone to another fork, whose line comes later, or to a stranger.
    """
    notes = {row["pid"]: row for row in read_jsonl(folder / FORKS)[0]}
    for pid, note in notes.items():
        if note["run"] == str(run):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.ppid() == note["server"]:
                    yield process
