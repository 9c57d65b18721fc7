"""How processes ended: only a parent can tell a signal from an exit, so the parents write it down for the others.

The fork server notes in its folder how its forks ended, and the Ray head how Ray's daemons ended.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from experiments.store.files import read_jsonl

NOTES = "ended"  # in a helper's folder: JSON lines {"pid", "code", "name"}
DAEMONS = ("gcs_server", "raylet")  # the processes without which a Ray cluster is of no use


def note(folder: Path, pid: int, code: int, name: str) -> None:
    """Write down in a helper's folder that one of its processes has ended; nothing if the folder is gone."""
    with contextlib.suppress(OSError), open(folder / NOTES, "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": pid, "code": code, "name": name}) + "\n")


def noted(folder: Path) -> dict[int, tuple[str, int]]:
    """Return (name, exit code) of the ended processes that a helper's folder tells of, by process id."""
    rows = read_jsonl(folder / NOTES)[0]
    return {row["pid"]: (row["name"], row["code"]) for row in rows}


def daemons_of(pid: int) -> dict[int, str]:
    """Return, by process id, the names of Ray's daemons among the children of a process."""
    found = {}
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if child.name() in DAEMONS:
                    found[child.pid] = child.name()
    return found


def ended(children: Mapping[int, str]) -> Iterator[tuple[int, str, int]]:
    """Yield (process id, name, exit code) of those of this process's children that have ended; they stay zombies."""
    for pid, name in children.items():
        with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
            status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if status is not None:
                killed = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                yield pid, name, -status.si_status if killed else status.si_status


def lives(pid: int) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
