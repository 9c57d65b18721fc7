"""Locks of GPUs, so that two launchers on one machine do not take the same.

A lock is a file in a folder that all users share. The kernel frees it when its owner ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.launchers.machine import nvidia_smi

FOLDER = Path("/tmp/r1z-devices")  # not TMPDIR, which differs between users


@dataclass
class DeviceLock:
    """A GPU that this process holds until `release`."""

    name: str
    descriptor: int

    def release(self) -> None:
        """Let others take the GPU."""
        os.close(self.descriptor)


def lock_device(name: str, what_for: str, folder: Path = FOLDER) -> DeviceLock | str:
    """Return the lock of a GPU, or in words who holds it.

    Args:
        name: as CUDA_VISIBLE_DEVICES has it; an index and the UUID of the same GPU have one lock.
        what_for: the run, which others are told.

    Raises OSError if the lock's file can't be made.
    """
    path = folder / re.sub(r"[^\w.-]", "_", (nvidia_smi() or {}).get(name, name))
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # another user's: then it has these rights already
        folder.chmod(0o1777)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        return holder
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o666)
    note = {"user": getpass.getuser(), "pid": os.getpid(), "run": what_for}
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(note).encode(), 0)
    return DeviceLock(name, descriptor)


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"{note['user']}'s process {note['pid']} has it for {note['run']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process has it"
