"""Run a command and watch all that it starts: its rows as they arrive, its memory, and what it leaves behind.

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
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

TICK_SECONDS = 0.05  # a look takes time on a core that the watched processes may need
MEMORY_SECONDS = 0.5
MEMORY_SHARE = 0.02  # the largest share of the time for looks, since they delay the processes that they look at
PATIENCE_SECONDS = 20.0  # how long a command past its limit may take to end by itself
GRACE_SECONDS = 1.0  # what still lives this long after the command has ended was left behind
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LIBC = ctypes.CDLL(None)


@dataclass
class Arrival:
    """A row of metrics, when it was seen (seconds since the epoch), and the CPU time of the living tree by then."""

    time: float
    file: str
    row: dict[str, Any]
    cpu_seconds: float = 0.0


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
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    rows: tuple[Path, str],
    places: Mapping[str, tuple[Path, str]],
    log: Path,
    limit: float,
    seen: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Run the command to its end, or for `limit` seconds; end whatever it leaves. It is told if this process dies.

    Args:
        rows: a folder and a pattern: the files of JSON lines to read as they grow.
        places: what to look for afterwards, as a folder and a pattern by kind.
        log: where its output goes.
        seen: is called when rows have arrived.
    """
    tree = Tree()
    before = _files(places)
    tails: dict[Path, int] = {}
    with open(log, "wb") as output:
        outcome = Outcome(time.time())
        process = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            preexec_fn=_end_with_parent,
        )
        ended = threading.Event()
        memory = threading.Thread(target=_watch_memory, args=(tree, outcome, ended))
        memory.start()
        try:
            while process.poll() is None and time.time() - outcome.started < limit:
                new = list(_new_rows(rows, tails, tree))
                outcome.arrivals += new
                if new:
                    seen(outcome)
                time.sleep(TICK_SECONDS)
            outcome.code = process.poll()
            outcome.arrivals += _new_rows(rows, tails, tree)
            outcome.ended = time.time()
        finally:
            ended.set()
            memory.join()
            if outcome.code is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE_SECONDS)
            else:
                outcome.left = _left(tree, places, before)
            tree.end()
            process.wait()
    return outcome


class Tree:
    """The descendants that this process gets from now on, orphans included."""

    def __init__(self) -> None:
        _adopt_orphans(True)
        self.older = set(psutil.Process().children(recursive=True))

    def living(self) -> list[psutil.Process]:
        """Return those that have not ended."""
        return [process for process in self._all() if not _is_zombie(process)]

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that those which have not ended have taken so far."""
        total = 0.0
        for process in self._all():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def end(self) -> None:
        """Kill those that are left, and collect the orphans that had ended by themselves."""
        while living := self.living():
            for process in living:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(living, timeout=0.2)
        for zombie in self._all():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(zombie.pid, os.WNOHANG)
        _adopt_orphans(False)

    def _all(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if process not in self.older]


def _adopt_orphans(adopt: bool) -> None:
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def _end_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _new_rows(rows: tuple[Path, str], tails: dict[Path, int], tree: Tree) -> Iterator[Arrival]:
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
        cpu_seconds = tree.cpu_seconds()
        for line in whole.splitlines():
            yield Arrival(now, str(path), json.loads(line), cpu_seconds)


def _watch_memory(tree: Tree, outcome: Outcome, ended: threading.Event) -> None:
    pause = MEMORY_SECONDS
    while not ended.wait(pause):
        began = time.monotonic()
        living = tree.living()
        outcome.peak_bytes = max(outcome.peak_bytes, sum(map(_pss, living)))
        outcome.peak_processes = max(outcome.peak_processes, len(living))
        pause = max(MEMORY_SECONDS, (time.monotonic() - began) / MEMORY_SHARE)


def _pss(process: psutil.Process) -> int:
    """Return a process's proportional set size in bytes; 0 if it has just ended."""
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _files(places: Mapping[str, tuple[Path, str]]) -> dict[str, set[str]]:
    """Return the names that match each place's pattern."""
    return {kind: {path.name for path in folder.glob(pattern)} for kind, (folder, pattern) in places.items()}


def _left(tree: Tree, places: Mapping[str, tuple[Path, str]], before: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Return what a command has left behind: processes, listening ports, files by kind."""
    deadline = time.time() + GRACE_SECONDS
    while tree.living() and time.time() < deadline:
        time.sleep(0.05)
    left: dict[str, list[str]] = {"processes": [], "ports": []}
    for process in tree.living():
        with contextlib.suppress(psutil.Error):
            left["processes"].append(" ".join(process.cmdline())[:120] or process.name())
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    left["ports"].append(str(connection.laddr.port))
    for kind, names in _files(places).items():
        left[kind] = sorted(names - before[kind])
    return left
