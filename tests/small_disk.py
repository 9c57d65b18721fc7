"""A small disk, so that a test can fill it: a file system in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path


def run_on_small_disk(module: str, size: str, disk: Path, seconds: float, *words: str) -> None:
    """Mount a file system of this size at `disk` and run `python -m module disk words`; AssertionError if that fails.

    It must end within `seconds`.
    """
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = (
        'size=$1 disk=$2 python=$3 module=$4; shift 4; mount -t tmpfs -o size="$size" none "$disk" && '
        'exec "$python" -m "$module" "$disk" "$@"'
    )
    command = ["sh", "-c", inside, "sh", size, str(disk), sys.executable, module, *words]
    done = subprocess.run(["unshare", "--mount", *user, *command], capture_output=True, text=True, timeout=seconds)
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
