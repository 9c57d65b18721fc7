"""Runs a command and watches all it starts: its rows as they arrive, its memory, and what it leaves behind.

Linux: memory is the sum of the proportional set sizes (PSS) of the process tree, so that pages shared by forks count
once. The watching process makes itself the reaper of orphans (prctl), so that no daemon slips out of its tree.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TICK_SECONDS = 0.005
MEMORY_SECONDS = 0.5
GRACE_SECONDS = 1.0  # what still lives this long after the command has ended was left behind
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass
class Arrival:
    """A row of metrics and when it was seen, in seconds since the epoch."""

    time: float
    file: str
    row: dict[str, Any]


@dataclass
class Outcome:
    """What was seen of one command."""

    started: float
    ended: float = 0.0
    code: int | None = None  # None: ran past its limit
    arrivals: list[Arrival] = field(default_factory=list)
    peak_bytes: int = 0
    peak_processes: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)


def watch(
    command: Sequence[str], environment: Mapping[str, str], rows: tuple[Path, str], log: Path, limit: float
) -> Outcome:
    """Run the command to its end, or for `limit` seconds; end whatever it leaves.

    `rows` is a folder and a pattern: the files of JSON lines to read as they grow. Its output goes to `log`.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _things()
    tails: dict[Path, int] = {}
    with open(log, "wb") as output:
        outcome = Outcome(time.time())
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
        ended = threading.Event()
        memory = threading.Thread(target=_watch_memory, args=(outcome, ended))
        memory.start()
        try:
            while process.poll() is None and time.time() - outcome.started < limit:
                outcome.arrivals += _new_rows(rows, tails)
                time.sleep(TICK_SECONDS)
            outcome.code = process.poll()
            outcome.ended = time.time()
            outcome.arrivals += _new_rows(rows, tails)
        finally:
            ended.set()
            memory.join()
            if outcome.code is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            outcome.left = _left(before) if outcome.code is not None else {}
            _end_descendants()
            process.wait()
    return outcome


def descendants() -> list[psutil.Process]:
    """Return the living processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _new_rows(rows: tuple[Path, str], tails: dict[Path, int]) -> Iterator[Arrival]:
    folder, pattern = rows
    for path in folder.glob(pattern):
        if path.stat().st_size <= tails.get(path, 0):
            continue
        now = time.time()
        with open(path, "rb") as file:
            file.seek(tails.get(path, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        tails[path] = tails.get(path, 0) + len(whole)
        for line in whole.splitlines():
            yield Arrival(now, str(path), json.loads(line))


def _watch_memory(outcome: Outcome, ended: threading.Event) -> None:
    while not ended.wait(MEMORY_SECONDS):
        tree = descendants()
        outcome.peak_bytes = max(outcome.peak_bytes, sum(map(_pss, tree)))
        outcome.peak_processes = max(outcome.peak_processes, len(tree))


def _pss(process: psutil.Process) -> int:
    """Return a process's proportional set size in bytes; 0 if it has just ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _things() -> dict[str, set[str]]:
    """Return what a command could leave on the disk, by kind."""
    folders = {"/dev/shm": Path("/dev/shm"), "temporary files": Path(tempfile.gettempdir())}
    return {kind: {entry.name for entry in folder.iterdir()} for kind, folder in folders.items() if folder.is_dir()}


def _left(before: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return what a command has left behind: processes, listening ports, shared memory, temporary files."""
    deadline = time.time() + GRACE_SECONDS
    while descendants() and time.time() < deadline:
        time.sleep(0.05)
    left: dict[str, list[str]] = {"processes": [], "ports": []}
    for process in descendants():
        with contextlib.suppress(psutil.Error):
            left["processes"].append(" ".join(process.cmdline())[:120] or process.name())
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    left["ports"].append(str(connection.laddr.port))
    for kind, names in _things().items():
        left[kind] = sorted(names - before[kind])
    return left


def _end_descendants() -> None:
    while tree := descendants():
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs(tree, timeout=0.2)
    # Orphans that came to this process: nobody else collects them.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
