"""Where the processes of an attempt are: their Python stacks, by py-spy where it is installed, else by faulthandler."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from experiments.processes import reaping
from experiments.variables import STACK_SIGNAL

SECONDS = 5.0  # for one process: py-spy can't read one that is stopped


def write_stacks(run: Path, file: Path) -> None:
    """Write the stacks of this process and, as far as they can be read, of the run's other processes into a file.

    Without py-spy the others print theirs into the attempt's log, if they listen for the signal (lifecycle/stacks.py).
    """
    spy = shutil.which("py-spy")
    with contextlib.suppress(OSError), open(file, "w", encoding="utf-8") as out:
        out.write(f"this process, {os.getpid()}\n")
        out.flush()
        faulthandler.dump_traceback(out, all_threads=True)
        for process in _others(run):
            with contextlib.suppress(psutil.Error, OSError, subprocess.SubprocessError):
                out.write(f"\n{process.pid} {process.status()}: {' '.join(process.cmdline())[:200]}\n")
                if spy is not None:
                    command = [spy, "dump", "--pid", str(process.pid)]
                    out.write(subprocess.run(command, capture_output=True, text=True, timeout=SECONDS).stdout)
                elif _listens(process.pid):
                    os.kill(process.pid, STACK_SIGNAL)
                out.flush()
    time.sleep(0.5)  # what the others print goes through Ray


def _others(run: Path) -> list[psutil.Process]:
    return [process for process in reaping.of_run(run) if process.pid != os.getpid()]


def _listens(pid: int) -> bool:
    """Return whether a process catches the signal; any other would end by it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (STACK_SIGNAL - 1) & 1)
    return False
