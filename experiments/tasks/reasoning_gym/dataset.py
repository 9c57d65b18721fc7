"""The rows of task=reasoning_gym. experiments/tasks/dataset.py calls `identity` and `build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.errors import UserError
from experiments.tasks import user_code
from experiments.tasks.reasoning_gym import draw
from experiments.tasks.reasoning_gym.offered import VERSION, version_problem
from experiments.tasks.rows import Row
from experiments.tasks.templates import TAGGED, TEMPLATES, template_problems, wrap_tagged

FORMAT = 1  # raise it when the rows or the way problems are drawn change, so that no old cache is taken for new


def identity(
    dataset: str,
    dataset_config: Mapping[str, Any] | None,
    train_size: int,
    test_size: int,
    data_seed: int,
    template: str,
) -> dict[str, Any]:
    """Return all that determines the rows; UserError if reasoning-gym or something about the arguments is wrong."""
    problems = [problem] if (problem := version_problem()) else []
    if not isinstance(dataset, str) or not dataset:
        problems.append(
            f"task.dataset must be the name of one of reasoning-gym's data sets, but is {dataset!r}; try chain_sum"
        )
    if dataset_config is not None and not isinstance(dataset_config, Mapping):
        problems.append(f"task.dataset_config must be null or a mapping, but is {dataset_config!r}; leave it out")
    problems += template_problems(template)
    if problems:
        raise UserError(*problems)
    return {
        "format": FORMAT,
        "reasoning-gym": VERSION,
        "dataset": dataset,
        "config": dict(dataset_config or {}),
        "sizes": [train_size, test_size],
        "seed": data_seed,
        # The texts and not their names, since an edited template makes another data set.
        "template": TEMPLATES[template].replace("{question}", TAGGED),
    }


def build(
    dataset: str,
    dataset_config: Mapping[str, Any] | None,
    train_size: int,
    test_size: int,
    data_seed: int,
    template: str,
) -> tuple[list[Row], list[Row]]:
    """Return the train and the test rows; UserError as `draw.draw` says."""
    request = {
        "name": dataset,
        "config": dict(dataset_config or {}),
        "train_size": train_size,
        "test_size": test_size,
        "data_seed": data_seed,
    }
    drawn = user_code.ask(draw.__name__, request, "task.path")
    return _rows(drawn["train"], template), _rows(drawn["test"], template)


def _rows(problems: list[dict[str, Any]], template: str) -> list[Row]:
    return [
        {"prompt": wrap_tagged(template, problem["question"]), "ground_truth": problem["truth"]} for problem in problems
    ]
