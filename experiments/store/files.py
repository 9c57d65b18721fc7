"""Write files so that a kill at any moment loses nothing: whole files or none, and appended lines."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Write `content` to `path` so that a kill at any moment leaves the old file or the new one, never a torn one.

    `durable`: so that a power cut leaves one of them too. A text is written as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def append_line(path: Path, text: str) -> None:
    """Append a line to a file; it is on the disk when this returns. A torn last line is ended by a newline first."""
    line = f"{text}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        while line:  # on a full disk the first write may take a part, the next one raises
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_jsonl(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return (the whole rows of a JSON-lines file, how many lines were torn or damaged); ([], 0) if it is missing.

    A process killed in the middle of a write leaves a torn last line: it is counted, not raised.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    rows, damaged = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            damaged += 1
            continue
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    return rows, damaged
