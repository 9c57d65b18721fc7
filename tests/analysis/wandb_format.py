"""Writes `.wandb` files byte by byte, for sizes and damages that the real client does not make on demand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BLOCK = 32768


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def part(number: int, content: bytes | int) -> bytes:
    """Return a protobuf field: a varint for an int, length-delimited bytes otherwise."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def item(key: str, value: Any, nested: bool = False) -> bytes:
    return part(1, part(2 if nested else 1, key.encode()) + part(16, json.dumps(value).encode()))


def run_record(run_id: str, config: Mapping[str, Any], start: int = 1_700_000_000, name: str = "") -> bytes:
    items = b"".join(item(key, value) for key, value in config.items())
    texts = part(1, run_id.encode()) + part(3, b"lab") + part(8, (name or run_id).encode()) + part(10, b"abl")
    return part(17, texts + part(4, items) + part(17, part(1, start)))


def history_record(step: int, metrics: Mapping[str, Any], nested: bool = False) -> bytes:
    items = b"".join(item(key, value, nested) for key, value in {**metrics, "_step": step}.items())
    return part(2, items + part(2, part(1, step)))


def exit_record(code: int = 0) -> bytes:
    return part(18, part(1, code) if code else b"")


def framed(records: Iterable[bytes]) -> bytes:
    """Return the file's bytes: the header and every record, numbered, cut into chunks at the blocks' borders."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for number, record in enumerate(records, 1):
        rest, first = record + part(1, number), True
        while True:
            left = BLOCK - len(out) % BLOCK
            if left < 7:
                out += bytes(left)
                left = BLOCK
            chunk, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + chunk), len(chunk), kind) + chunk
            first = False
            if not rest:
                break
    return bytes(out)


def write_log(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]], code: int | None = 0, **run: Any) -> Path:
    """Write a run's file: its run record, a record a row, and the exit unless `code` is None."""
    run = {"run_id": path.stem.removeprefix("run-"), "config": {}, **run}
    records = [run_record(**run), *(history_record(step, row) for step, row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(framed([*records, *([exit_record(code)] if code is not None else [])]))
    return path
