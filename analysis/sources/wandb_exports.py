"""Rows of a W&B run that the server has moved to parquet files.

W&B exports the histories of runs to parquet files; a server may then answer with the later rows only. The files have a
column a metric, and `_step`. The query is that of the official client (wandb 0.31, `RunParquetHistory`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from analysis.records.history import Row
from analysis.sources.graphql import Server, ServerError
from experiments.values import as_float

STEP = "_step"
EXPORTS = """query RunParquetHistory($entity: String!, $project: String!, $runName: String!, $liveKeys: [String!]!) {
  project(name: $project, entityName: $entity) {
    run(name: $runName) { parquetHistory(liveKeys: $liveKeys) { parquetUrls } }
  }
}"""
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def exported_rows(server: Server, entity: str, project: str, run_id: str) -> list[Row]:
    """Return (step, numbers) of every row of a run in the server's parquet files, [] if it has none.

    Raises ServerError if a file can't be had or is none.
    """
    names = {"entity": entity, "project": project, "runName": run_id, "liveKeys": [STEP]}
    answer: Any = server.ask(EXPORTS, names)
    try:
        urls = [str(url) for url in answer["project"]["run"]["parquetHistory"]["parquetUrls"] or []]
    except (LookupError, TypeError):
        raise ServerError(f"{server.url} must name a run's exports as W&B does, but sends something else") from None
    return [row for url in urls for row in _rows(server, server.download(url))]


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are numbers of a row, without those that W&B adds. NaN and infinities may be texts."""
    found = {}
    for key, value in row.items():
        if key[0] == "_":
            continue
        if (number := as_float(value)) is not None:
            found[key] = number
        elif isinstance(value, str) and value in NOT_FINITE:
            found[key] = NOT_FINITE[value]
    return found


def _rows(server: Server, content: bytes) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content), use_threads=False)
        return [(int(row[STEP]), numbers(row)) for row in table.to_pylist()]
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError):
        raise ServerError(f"{server.url} must export rows as W&B does, but the file that it names has none") from None
