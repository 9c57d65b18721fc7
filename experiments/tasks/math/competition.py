"""The rows of task=math: MATH's problems of competitions. experiments/tasks/dataset.py calls `identity` and `build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.tasks.math.local_copy import Copied
from experiments.tasks.rows import Row

BOXES = ("\\boxed{", "\\fbox{")  # MATH's worked solutions have the answer in the last of these


def right(row: Mapping[str, Any]) -> str | None:
    """Return a row's answer, in LaTeX: its answer column, or else the last box of its solution; None without one."""
    answer = row.get("answer")
    if answer is None:
        answer = last_box(str(row.get("solution")))
    return str(answer).strip() or None if answer is not None else None


def last_box(solution: str) -> str | None:
    """Return what stands in the last box of a solution, None if there is no box or it is not closed."""
    start = max(solution.rfind(box) for box in BOXES)
    if start < 0:
        return None
    depth, begin = 0, solution.index("{", start) + 1
    for place in range(begin - 1, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[begin:place]
    return None


MATH = Copied(name="MATH", question="problem", answers=("answer", "solution"), right=right)


def identity(source: str, train_size: int, test_size: int, data_seed: int, template: str) -> dict[str, Any]:
    """Return all that determines the rows and their scores."""
    return MATH.identity(source, train_size, test_size, data_seed, template)


def build(source: str, train_size: int, test_size: int, data_seed: int, template: str) -> tuple[list[Row], list[Row]]:
    """Return the train and the test rows."""
    return MATH.build(source, train_size, test_size, data_seed, template)
