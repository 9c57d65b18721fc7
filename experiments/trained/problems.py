"""The problems that a trained model is asked: the run's validation problems, or those of a user's file. Light."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.tasks.dataset import GREEDY_AGENT
from experiments.tasks.templates import wrap
from experiments.values import at

FORM = (
    'a row of veRL\'s (prompt, reward_model, data_source), or {"prompt": "a question" or [chat messages], '
    '"ground_truth": ...}'
)


@dataclass(frozen=True)
class Problem:
    """What a model is asked, and what the reward function is told about it."""

    index: int
    messages: tuple[dict[str, str], ...]
    ground_truth: Any
    data_source: str
    extra: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The messages' contents, one after the other."""
        return "\n".join(message["content"] for message in self.messages)


def validation_problems(config: Mapping[str, Any], required: bool = True) -> list[Problem]:
    """Return the problems that a run is validated on, each once.

    `required`: raise UserError if the run's file is no longer there; else return [].
    """
    named = at(config, "data.val_files")
    files = named if isinstance(named, list) else [named]
    rows: list[Any] = []
    for file in files:
        if not file or not Path(file).is_file():
            if not required:
                return []
            raise UserError(
                f"the run's validation problems must be in {file}, but no such file is there; "
                "plan the run once more (show=plan) to make it again, or give --data FILE"
            )
        rows += _read(Path(file))
    return _problems(rows, config, str(files[0]))


def file_problems(file: Path, config: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a .parquet, .json or .jsonl file; UserError for the first row that is none."""
    if not file.is_file():
        raise UserError(f"--data must be a file of problems, but there is no file {file}; name one")
    if file.suffix not in (".parquet", ".json", ".jsonl"):
        raise UserError(f"--data must end in .parquet, .json or .jsonl, but is {file}; convert it")
    problems = _problems(_read(file), config, str(file))
    if not problems:
        raise UserError(f"--data must have at least one problem, but {file} has none; write {FORM}")
    return problems


def digest(problems: list[Problem]) -> str:
    """Return 8 hexadecimal digits that name the problems' content."""
    content = [[p.messages, p.ground_truth, p.data_source] for p in problems]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _read(file: Path) -> list[Any]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet as parquet

            return parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            rows = json.loads(text)
            if not isinstance(rows, list):
                raise ValueError("it holds no list")
            return rows
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{file} must hold problems, but can't be read: {str(error).splitlines()[0]}") from None


def _problems(rows: list[Any], config: Mapping[str, Any], file: str) -> list[Problem]:
    return [_problem(row, number, config, f"row {number} of {file}") for number, row in enumerate(_asked(rows))]


def _asked(rows: list[Any]) -> Iterator[Any]:
    """Yield the rows without those that only repeat a problem to have it answered greedily."""
    for row in rows:
        if not (isinstance(row, Mapping) and row.get("agent_name") == GREEDY_AGENT):
            yield row


def _problem(row: Any, index: int, config: Mapping[str, Any], place: str) -> Problem:
    truth = object()
    given = row.get("prompt") if isinstance(row, Mapping) else None
    if isinstance(row, Mapping):
        reward_model = row.get("reward_model")
        truth = (
            reward_model.get("ground_truth", truth)
            if isinstance(reward_model, Mapping)
            else row.get("ground_truth", truth)
        )
    messages = wrap(str(at(config, "model.template")), given) if isinstance(given, str) and given else given
    if type(truth) is object or not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise UserError(f"{place} must be a problem, but is {str(row)[:120]}; write {FORM}")
    extra = row.get("extra_info")
    return Problem(
        index=index,
        messages=tuple(dict(message) for message in messages),
        ground_truth=truth,
        data_source=str(row.get("data_source") or at(config, "task.name")),
        extra=dict(extra) if isinstance(extra, Mapping) else {},
    )


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, Mapping)
        and {"role", "content"} <= set(message)
        and all(isinstance(message[key], str) for key in ("role", "content"))
    )
