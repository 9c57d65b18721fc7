"""Keeps the rows of one W&B run in a parquet file, with a stamp that tells whether the server has newer ones."""

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
    """What the file of a run holds."""

    rows: list[Row]
    stamp: str
    """The run's stamp on the server when the rows were read, see `wandb_api.Listed`."""
    created: str
    """When the run was made. A deleted run's id may be used again, and then the rows are another run's."""


@dataclass(frozen=True)
class HistoryCache:
    """The file of a run. It is replaced as a whole; a file that can't be read counts as missing."""

    path: Path

    def read(self) -> Kept | None:
        """Return what the file holds, None if there is no readable file."""
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
        """Keep the rows. If the folder can't be written to, nothing is kept, and no error is raised."""
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
    """Return a column of float64 without nulls as a list.

    pyarrow's to_pylist takes ten times as long, and its to_numpy imports pandas.
    """
    found: list[float] = []
    for chunk in column.chunks:
        values = memoryview(chunk.buffers()[1]).cast("d")
        found += values[chunk.offset : chunk.offset + len(chunk)].tolist()
    return found
