"""Keeps the rows of one W&B run in a parquet file, with the stamp of the server's state that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.records.history import Row
from experiments.store.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

STEP = "_step"
STAMP, CREATED = b"stamp", b"created"


@dataclass(frozen=True)
class Kept:
    """What a file holds."""

    rows: list[Row]
    stamp: str
    """The server's state that the rows show."""
    created: str
    """When the run was made: an id may be used anew."""


@dataclass(frozen=True)
class HistoryCache:
    """A file that is replaced whole; one that can't be read is as good as none."""

    path: Path

    def read(self) -> Kept | None:
        """Return what the file holds, None without one."""
        if not self.path.is_file():
            return None
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                table = file.read(use_threads=False)
            told = table.schema.metadata or {}
            stamp, created = told[STAMP].decode(), told[CREATED].decode()
        except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError):
            return None
        steps = table.column(STEP).to_pylist()
        names = [name for name in table.column_names if name != STEP]
        full = [name for name in names if not table.column(name).null_count]
        columns = [_floats(table.column(name)) for name in full]
        rows = [dict(zip(full, values, strict=True)) for values in zip(*columns, strict=True)] or [{} for _ in steps]
        for name in set(names).difference(full):
            for row, value in zip(rows, table.column(name).to_pylist(), strict=True):
                if value is not None:
                    row[name] = value
        return Kept(list(zip(steps, rows, strict=True)), stamp, created)

    def write(self, rows: Sequence[Row], stamp: str, created: str) -> None:
        """Keep the rows. A folder that can't be written to means no cache, not a failure."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = sorted({name for _, row in rows for name in row} - {STEP})
        columns = {name: pa.array([row.get(name) for _, row in rows], pa.float64()) for name in names}
        table = pa.table({STEP: pa.array([step for step, _ in rows], pa.int64()), **columns})
        table = table.replace_schema_metadata({STAMP: stamp.encode(), CREATED: created.encode()})
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="zstd", use_dictionary=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, content.getvalue().to_pybytes(), durable=False)
        except OSError:
            return


def _floats(column: pa.ChunkedArray) -> list[float]:
    """Return a column of float64 without nulls; to_pylist takes ten times as long, and to_numpy imports pandas."""
    found: list[float] = []
    for chunk in column.chunks:
        values = memoryview(chunk.buffers()[1]).cast("d")
        found += values[chunk.offset : chunk.offset + len(chunk)].tolist()
    return found
