"""Which forks of the fork server belong to which run: /proc shows the environment of the server for each of them.

The server notes each fork in its folder. The run is the one that the request's environment names.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import psutil

from experiments.store.files import read_jsonl

FORKS = "forks"  # in the server's folder: JSON lines {"pid", "run"}


def note_fork(folder: Path, pid: int, run: str | None) -> None:
    """Write down in the server's folder whose fork a process is; nothing if the folder is gone."""
    with contextlib.suppress(OSError), open(folder / FORKS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": pid, "run": run}) + "\n")


def forks_of(folder: Path, run: Path) -> Iterator[psutil.Process]:
    """Yield the living forks of a run, as the folder of the server tells them."""
    run_of = {row["pid"]: row["run"] for row in read_jsonl(folder / FORKS)[0]}  # the last one that had this number
    for pid, own in run_of.items():
        if own == str(run):
            with contextlib.suppress(psutil.NoSuchProcess):
                yield psutil.Process(pid)
