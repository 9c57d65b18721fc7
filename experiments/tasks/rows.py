"""The rows of a user's task, checked one by one.

A row is {"prompt": ..., "ground_truth": ...}. The prompt is a question, which is put into model.template, or a list of
chat messages, which is taken as it is. The ground truth goes to the reward function: numbers, texts, lists and dicts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tasks import user_code
from experiments.tasks.templates import wrap
from experiments.tasks.user_code import short

Row = dict[str, Any]


def checked(build: Callable[..., Any], file: Path, arguments: Mapping[str, Any]) -> tuple[list[Row], list[Row]]:
    """Return the first task.train_size train rows and task.test_size test rows that a build gives.

    Raises UserError: `build` raises; it gives something other than rows, or too few rows; test rows are train rows too;
    a parquet file would not keep the ground truths as they are.
    """
    with user_code.user_errors("build", file, "task.path"):
        given = build(**arguments)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise UserError(
                f"build of task.path={file} must return its train and its test rows, but returns {short(given)}; "
                "write: return train, test"
            )
        train = _rows("train", given[0], file, arguments)
        test = _rows("test", given[1], file, arguments)
    problems = [
        *_missing_rows("train", train, file, arguments),
        *_missing_rows("test", test, file, arguments),
        *_leaks(train, test, file),
        *_odd_ground_truths([row["ground_truth"] for row in (*train, *test)], file),
    ]
    if problems:
        raise UserError(*problems)
    return train, test


def digest(train: Iterable[Row], test: Iterable[Row]) -> str:
    """Return the sha256 of some rows."""
    return hashlib.sha256(json.dumps([list(train), list(test)], sort_keys=True).encode()).hexdigest()


def _rows(split: str, given: Any, file: Path, arguments: Mapping[str, Any]) -> list[Row]:
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes, Mapping)):
        raise UserError(
            f"build of task.path={file} must return lists of rows, but its {split} rows are {short(given)}; "
            "write: return train, test"
        )
    wanted = islice(given, int(arguments[f"{split}_size"]))
    return [_row(row, f"{split} row {k} of task.path={file}", arguments["template"]) for k, row in enumerate(wanted)]


def _row(row: Any, place: str, template: str) -> Row:
    """Return a row in canonical form: chat messages, and the ground truth as JSON keeps it."""
    if not isinstance(row, Mapping) or set(row) != {"prompt", "ground_truth"}:
        raise UserError(
            f'{place} must be a dict of prompt and ground_truth, but is {short(row)}; write {{"prompt": "...", '
            '"ground_truth": ...}'
        )
    prompt = wrap(template, row["prompt"]) if isinstance(row["prompt"], str) and row["prompt"] else row["prompt"]
    if not isinstance(prompt, list) or not prompt or not all(map(_is_message, prompt)):
        raise UserError(
            f"{place} must have a text or a list of chat messages as its prompt, but has {short(prompt)}; "
            'write "a question" or [{"role": "user", "content": "a whole prompt"}]'
        )
    try:
        truth = json.loads(json.dumps(row["ground_truth"], allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{place} must have a ground truth of numbers, texts, lists and dicts, but has "
            f"{short(row['ground_truth'])} ({error}); convert it, e.g. with int() or list()"
        ) from error
    return {"prompt": prompt, "ground_truth": truth}


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and set(message) == {"role", "content"}
        and all(isinstance(text, str) for text in message.values())
    )


def _missing_rows(split: str, rows: list[Row], file: Path, arguments: Mapping[str, Any]) -> list[str]:
    asked = int(arguments[f"{split}_size"])
    if len(rows) >= asked:
        return []
    do = f"set task.{split}_size={len(rows)}" if rows else "return train, test with rows in both"
    return [
        f"build of task.path={file} must give at least task.{split}_size={asked} {split} rows, but gives {len(rows)}; "
        f"{do}"
    ]


def _leaks(train: list[Row], test: list[Row], file: Path) -> list[str]:
    trained = {json.dumps(row["prompt"]) for row in train}
    leaked = [row for row in test if json.dumps(row["prompt"]) in trained]
    if not leaked:
        return []
    return [
        f"the test rows of task.path={file} must be held out, but {len(leaked)} of {len(test)} prompts are train "
        f"prompts too, the first is {short(leaked[0]['prompt'][-1]['content'])}; put each into one of them only"
    ]


def _odd_ground_truths(truths: list[Any], file: Path) -> list[str]:
    """Return a problem if a parquet column would not keep the ground truths as they are."""
    import pyarrow as pa

    try:
        for truth, kept in zip(truths, pa.array(truths).to_pylist(), strict=True):
            if truth != kept:
                reason = f"{short(truth)} would be read as {short(kept)}"
                break
        else:
            return []
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).splitlines()[0]
    return [
        f"the ground truths of task.path={file} must be of one kind, but {reason}; give all of them the same keys with "
        "the same kinds of values, or write each as a text with json.dumps"
    ]
