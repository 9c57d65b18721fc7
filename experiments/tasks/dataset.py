"""A task's data set: train.parquet and test.parquet in a folder of the cache, as veRL reads them.

A task is a Python file (task.path) with a function

    build(train_size, test_size, data_seed, template) -> (train rows, test rows)

called with all keys under `task:`, except name and path, and with model.template. rows.py says what a row is. The rows
are the identity of the data set: `build` is called whenever a run is planned, and the same rows are the same data set.

If that takes too long, as for countdown, the file has a second function `identity` with the same arguments. It returns,
as JSON, all that determines the rows. Then the rows are built once for each identity, and not checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tasks import user_code
from experiments.tasks.cache import cached
from experiments.tasks.rows import Row, checked, digest

FORMAT = 1  # raise it when the same rows are written another way
ROW_GROUP = 50_000  # rows written at a time: bounds the memory that half a million prompts take
GREEDY_AGENT = "greedy_agent"  # the agent loop that answers a row greedily
NO_ARGUMENTS = ("name", "path", "digest", "code")  # keys under `task:` that build does not get


@dataclass(frozen=True)
class DataSet:
    """Two parquet files that veRL trains and validates on, and the sha256 of all that determines them.

    Each test row is written twice, since sampled and greedy validation can differ: once with data source NAME, which is
    sampled as the rollout's val_kwargs say, and once with NAME_greedy, which chooses the greedy agent loop.
    """

    train: Path
    test: Path
    digest: str


def arguments(task: Mapping[str, Any], template: str) -> dict[str, Any]:
    """Return the arguments of `build` for a resolved `task` node."""
    return {**{key: value for key, value in task.items() if key not in NO_ARGUMENTS}, "template": template}


def prepare(file: Path, name: str, arguments: Mapping[str, Any], cache_dir: Path) -> DataSet:
    """Return the data set of a task's file, built or taken from the cache.

    A file that is not this project's is executed in a process of its own.

    Args:
        name: task.name, which becomes the data source.
        cache_dir: the folder NAME-<12 characters of the digest> is in it or is made there.

    Raises UserError: the file has no function `build`, or it raises; it gives no rows, too few, or the same rows for
    train and test; `cache_dir` can't be written.
    """
    if user_code.is_ours(file):
        return make(file, name, arguments, cache_dir)
    request = {"file": str(file), "name": name, "arguments": dict(arguments), "cache_dir": str(cache_dir)}
    found = user_code.ask("experiments.tasks.dataset", request, "task.path")
    return DataSet(Path(found["train"]), Path(found["test"]), found["digest"])


def make(file: Path, name: str, arguments: Mapping[str, Any], cache_dir: Path) -> DataSet:
    """Do what `prepare` says, in this process."""
    module = user_code.load(file, "task.path")
    build = user_code.function(module, "build", arguments, "task.path")
    if hasattr(module, "identity"):
        identity, rows = module.identity(**arguments), lambda: build(**arguments)
    else:
        train, test = checked(build, file, arguments)
        identity = {"format": FORMAT, "name": name, "rows": digest(train, test)}

        def rows() -> tuple[list[Row], list[Row]]:
            if digest(*checked(build, file, arguments)) == identity["rows"]:
                return train, test
            raise UserError(
                f"build of task.path={file} must give the same rows whenever it is called, but two calls differ; "
                "draw from random.Random(data_seed)"
            )

    folder, sha256, _ = cached(cache_dir, name, identity, lambda folder: write_rows(folder, name, *rows()))
    return DataSet(folder / "train.parquet", folder / "test.parquet", sha256)


def write_rows(folder: Path, name: str, train: Iterable[Row], test: Iterable[Row]) -> dict[str, int]:
    """Write both files, as veRL's data set and reward manager read them; return how many rows each has."""
    test = list(test)
    twice = [(name, "single_turn_agent", test), (f"{name}_greedy", GREEDY_AGENT, test)]
    return {
        "train": _write(folder, "train", [(name, "single_turn_agent", train)]),
        "test": _write(folder, "test", twice),
    }


def _write(folder: Path, split: str, sources: Iterable[tuple[str, str, Iterable[Row]]]) -> int:
    """Write <split>.parquet from (data source, veRL's agent loop, rows) each; return how many rows it has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, written = None, 0
    for source, agent, rows in sources:
        for start, group in _groups(rows):
            if writer is None:
                schema = _schema(pa.array([row["ground_truth"] for row in group]).type)
                writer = pq.ParquetWriter(folder / f"{split}.parquet", schema)
            table = [
                {
                    "data_source": source,
                    "agent_name": agent,
                    "prompt": row["prompt"],
                    "ability": row.get("ability", source),
                    "reward_model": {"style": "rule", "ground_truth": row["ground_truth"]},
                    "extra_info": {"split": split, "index": index},
                }
                for index, row in enumerate(group, start)
            ]
            writer.write_table(pa.Table.from_pylist(table, schema=schema))
            written += len(table)
    if writer is not None:
        writer.close()
    return written


def _groups(rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    start, rest = 0, iter(rows)
    while group := list(islice(rest, ROW_GROUP)):
        yield start, group
        start += len(group)


def _schema(ground_truth: Any) -> Any:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("agent_name", pa.string()),
            ("prompt", pa.list_(message)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", ground_truth)])),
            ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64())])),
        ]
    )


def _answer(request: dict[str, Any], say: Any) -> dict[str, str]:
    """Return, as JSON, what `make` returns."""
    made = make(Path(request["file"]), request["name"], request["arguments"], Path(request["cache_dir"]))
    return {"train": str(made.train), "test": str(made.test), "digest": made.digest}


if __name__ == "__main__":
    user_code.answer(_answer)
