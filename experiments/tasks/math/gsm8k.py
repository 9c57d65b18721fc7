"""The rows of task=gsm8k: word problems with numbers. experiments/tasks/dataset.py calls `identity` and `build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.tasks.math.local_copy import Copied
from experiments.tasks.rows import Row

MARK = "####"  # stands before the number at the end of a worked answer


def right(row: Mapping[str, Any]) -> str | None:
    """Return the number at the end of a row's answer, without commas; None if there is none."""
    _, mark, number = str(row["answer"]).rpartition(MARK)
    return (number.strip().replace(",", "") or None) if mark else None


GSM8K = Copied(name="openai/gsm8k", question="question", answers=("answer",), right=right)


def identity(source: str, train_size: int, test_size: int, data_seed: int, template: str) -> dict[str, Any]:
    """Return all that determines the rows and their scores."""
    return GSM8K.identity(source, train_size, test_size, data_seed, template)


def build(source: str, train_size: int, test_size: int, data_seed: int, template: str) -> tuple[list[Row], list[Row]]:
    """Return the train and the test rows."""
    return GSM8K.build(source, train_size, test_size, data_seed, template)
