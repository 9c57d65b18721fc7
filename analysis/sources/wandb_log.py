"""Reads a `.wandb` file, which a W&B client writes on the run's machine, offline or online. Does not import wandb.

The format is the same from wandb 0.16 to 0.31. After a header of 7 bytes come blocks of 32 KiB, which hold chunks as in
LevelDB's log: crc32 of type and data (4 bytes), length (2 bytes), type (1 byte: whole, first, middle, last), data. A
record is one whole chunk or several chunks; it is a protobuf `Record` of wandb/proto/wandb_internal.proto. From a file
that was cut off or damaged, every record that is whole is read.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.records.history import Row
from experiments.values import as_float

MAGIC = b":W&B\xe1\xbe\x00"
BLOCK, CHUNK_HEADER = 32768, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
CRC_OF_TYPE = [zlib.crc32(bytes([kind])) for kind in range(5)]

# Field numbers of wandb_internal.proto.
RECORD_NUMBER, HISTORY, CONFIG, RUN, EXIT = 1, 2, 5, 17, 18
RECORD_EXTRAS = (RECORD_NUMBER, 16, 19, 200)  # number, control, uuid, info
ITEM, KEY, NESTED_KEY, VALUE = 1, 1, 2, 16
HISTORY_STEP, STEP_NUMBER = 2, 1
RUN_TEXTS = {1: "run_id", 2: "entity", 3: "project", 6: "group", 8: "name"}
RUN_CONFIG, RUN_TAGS, RUN_START, CONFIG_UPDATE = 4, 10, 17, 1

VALUE_TAG = b"\x82\x01"  # the tag of field 16 as bytes


class NotALogError(ValueError):
    """The file does not begin as a `.wandb` file does, so it is none."""


@dataclass
class WandbLog:
    """What a `.wandb` file says of its run."""

    run_id: str = ""
    entity: str = ""
    project: str = ""
    group: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    start: float = 0.0
    """Unix time in seconds."""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    """(step, the metrics that are numbers), in the order of logging."""
    exit_code: int | None = None
    """None: the writer was killed, or is still writing."""
    records: int = 0
    lost_records: int = 0
    """How many records are missing between sound ones, by the gaps in the records' numbers."""
    skipped_bytes: int = 0
    damaged_end: bool = False
    """Whether no sound record follows the last damage, so that nobody can tell how many records were lost there."""
    cut_off: bool = False
    """Whether the file ends within a record."""

    def damage(self) -> str:
        """Return how much could not be read, "" if everything could."""
        parts = []
        if self.skipped_bytes:
            count = self.lost_records + self.damaged_end
            lost = f"{'at least ' if self.damaged_end else ''}{count} record{'' if count == 1 else 's'}"
            parts.append(f"{self.skipped_bytes} bytes are damaged, {lost} lost")
        if self.cut_off:
            parts.append("the file ends within a record")
        return f"{', '.join(parts)}; {self.records} records are sound" if parts else ""


def read_log(path: Path, to_run: bool = False) -> WandbLog:
    """Return what the whole records of a `.wandb` file say; with `to_run`, only those up to the first with a run's id.

    Raises NotALogError if it is no such file, OSError if it can't be read.
    """
    data = path.read_bytes()
    log = WandbLog()
    if data[: len(MAGIC)] != MAGIC:
        if not MAGIC.startswith(data):
            raise NotALogError(f"{path} must begin as a .wandb file does, but does not")
        log.cut_off = True  # just created
        return log
    keys: dict[bytes, str] = {}
    last_number = skipped = 0
    for record in framed_records(data, log):
        try:
            number = read_record(record, log, keys)
        except (IndexError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.skipped_bytes += len(record)
            continue
        if to_run and log.run_id:
            break
        log.records += 1
        skipped = log.skipped_bytes
        log.lost_records += max(0, number - last_number - 1)
        last_number = max(last_number, number)
    log.damaged_end = log.skipped_bytes > skipped
    return log


def framed_records(data: bytes, log: WandbLog) -> Iterator[bytes]:
    """Yield the records whose checksums are right; note in `log` what was skipped and whether the file was cut off."""
    end, position = len(data), len(MAGIC)
    parts: list[bytes] = []
    while True:
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER.size:
            position += left
            continue
        if position + CHUNK_HEADER.size > end:
            log.cut_off |= position < end or bool(parts)
            return
        checksum, length, kind = CHUNK_HEADER.unpack_from(data, position)
        start = position + CHUNK_HEADER.size
        sane = WHOLE <= kind <= LAST and length <= left - CHUNK_HEADER.size
        if (sane and start + length > end) or not (sane or any(data[position:])):
            log.cut_off = True  # the writer died in the middle of a record, or zeros follow to the end of the file
            return
        chunk = data[start : start + length]
        if not sane or zlib.crc32(chunk, CRC_OF_TYPE[kind]) != checksum:
            log.skipped_bytes += min(left, end - position) + sum(map(len, parts))
            parts, position = [], position + left  # go on with the next block, which begins with a chunk
            continue
        position = start + length
        if kind == WHOLE:
            parts = []
            yield chunk
        elif kind == FIRST:
            parts = [chunk]
        elif parts:
            parts.append(chunk)
            if kind == LAST:
                yield b"".join(parts)
                parts = []
        else:
            log.skipped_bytes += length  # a later chunk of a record whose beginning is damaged


def read_record(record: bytes, log: WandbLog, keys: dict[bytes, str]) -> int:
    """Add what a record says to `log`; return the record's number."""
    number, kind, body = 0, 0, b""
    for tag, value in fields(record):
        if tag == RECORD_NUMBER:
            number = int(value)
        elif tag not in RECORD_EXTRAS:
            kind, body = tag, value
    if kind == HISTORY:
        log.rows.append(read_row(body, keys))
    elif kind == CONFIG:
        read_config(body, log.config)
    elif kind == EXIT:
        log.exit_code = next((int(value) for tag, value in fields(body) if tag == 1), 0)
    elif kind == RUN:
        log.tags = [value.decode() for tag, value in fields(body) if tag == RUN_TAGS]
        for tag, value in fields(body):
            if tag in RUN_TEXTS:
                setattr(log, RUN_TEXTS[tag], value.decode())
            elif tag == RUN_CONFIG:
                read_config(value, log.config)
            elif tag == RUN_START:
                time = dict(fields(value))
                log.start = time.get(1, 0) + time.get(2, 0) / 1e9
    return number


def read_config(body: bytes, config: dict[str, Any]) -> None:
    """Put the updates of a ConfigRecord into the nested `config`."""
    for tag, value in fields(body):
        if tag == CONFIG_UPDATE:
            path, raw = read_item(value)
            node = config
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = json.loads(raw)


def read_item(body: bytes) -> tuple[list[str], bytes]:
    """Return (the key's path, the JSON of its value) of a ConfigItem or HistoryItem."""
    path: list[str] = []
    raw = b"null"
    for tag, value in fields(body):
        if tag in (KEY, NESTED_KEY):
            path.append(value.decode())
        elif tag == VALUE:
            raw = value
    return path, raw


def read_row(body: bytes, keys: dict[bytes, str]) -> Row:
    """Return (step, numbers) of a HistoryRecord. `keys` remembers each metric's name by the bytes of its key field.

    This is a short cut past `read_any_row`, which visits every field: a log of 10,000 steps x 120 metrics takes 0.5
    seconds of CPU instead of 4.0. The row is cut at the value tags, because an item is `tag, length, key field, value
    tag, length, value`. So a piece is: the value's length, the value, the next item's tag and length, its key field.
    The short cut needs rows whose key fields are all known and whose values are shorter than 128 bytes. If a value
    holds the bytes of the value tag, the cut there leaves a key field that is not known, and `read_any_row` reads the
    row.
    """
    head, *pieces = body.split(VALUE_TAG)
    try:
        last = pieces.pop()
        names = [keys[head[2:]], *[keys[piece[piece[0] + 3 :]] for piece in pieces]]
        texts = [*[piece[1 : piece[0] + 1] for piece in pieces], last[1 : last[0] + 1]]
        step = read_step(last[last[0] + 1 :])
        try:
            row = dict(zip(names, map(float, texts), strict=True))
        except ValueError:
            numbers = ((name, as_number(text)) for name, text in zip(names, texts, strict=True))
            row = {name: number for name, number in numbers if number is not None}
    except (KeyError, IndexError, ValueError):
        return read_any_row(body, keys)
    return int(row["_step"]) if step is None else step, row


def read_any_row(body: bytes, keys: dict[bytes, str]) -> Row:
    """Return what `read_row` returns, by visiting every field, and add the row's keys to `keys`."""
    row: dict[str, float] = {}
    step: int | None = None
    for tag, item in fields(body):
        if tag == ITEM:
            path, raw = read_item(item)
            key = ".".join(path)
            keys[item[: item.index(VALUE_TAG)]] = key
            if (number := as_number(raw)) is not None:
                row[key] = number
        elif tag == HISTORY_STEP:
            step = next((int(value) for number, value in fields(item) if number == STEP_NUMBER), 0)
    return int(row["_step"]) if step is None else step, row


def read_step(rest: bytes) -> int | None:
    """Return the step that follows a HistoryRecord's items, None if none does; ValueError if another item follows."""
    step = None
    for tag, value in fields(rest):
        if tag == ITEM:
            raise ValueError("an item stands behind the last one")
        if tag == HISTORY_STEP:
            step = next((int(number) for field_number, number in fields(value) if field_number == STEP_NUMBER), 0)
    return step


def as_number(raw: bytes) -> float | None:
    """Return a JSON value as a float, None if it is no number. NaN and Infinity occur, with and without quotes."""
    value = json.loads(raw)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else as_float(value)


def fields(body: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a protobuf message: int for a varint, bytes for everything else."""
    position, end = 0, len(body)
    while position < end:
        tag, position = varint(body, position)
        kind = tag & 7
        if kind == 0:
            value, position = varint(body, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = varint(body, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type must be 0, 1, 2 or 5, but is {kind}")
        if position + length > end:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, body[position : position + length]
        position += length


def varint(body: bytes, position: int) -> tuple[int, int]:
    """Return (the integer at `position`, the position after it)."""
    value = shift = 0
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
