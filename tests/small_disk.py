"""A small disk, so that a test can fill it: a file system in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path


def run_on_small_disk(module: str, size: str, disk: Path, seconds: float) -> None:
    """Mount a file system of this size at `disk` and run `python -m module disk`; AssertionError if that fails."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = 'mount -t tmpfs -o size="$1" none "$2" && exec "$3" -m "$4" "$2"'
    words = ["sh", "-c", inside, "sh", size, str(disk), sys.executable, module]
    done = subprocess.run(["unshare", "--mount", *user, *words], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with open(path, "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return
