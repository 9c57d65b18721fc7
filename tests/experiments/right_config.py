"""A config that is right, and what tests change in it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from experiments.checks.parallelism import (
    length_problems,
    rollout_problems,
    sequence_problems,
    sharding_problems,
    token_problems,
)
from experiments.checks.preflight import examine, faults_of
from experiments.models.shape import Shape

Config = dict[str, Any]
Make = Callable[..., Config]


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return a copy of a config with some dotted keys set; veRL's paths follow model.path, as conf/ has it."""
    changed = copy.deepcopy(config)
    if "model.path" in values:
        path = values["model.path"]
        values = {"actor_rollout_ref.model.path": path, "critic.model.path": path, **values}
    for key, value in values.items():
        node = changed
        *parents, last = key.split(".")
        for part in parents:
            node = node[part]
        assert last in node, f"{key} must exist"
        node[last] = value
    return changed


def write_rows(file: Path, count: int, words: int = 6, **columns: list[Any]) -> Path:
    """Write veRL rows whose prompts have `words` tokens; `columns` replace or add some."""
    rows = {
        "data_source": ["countdown"] * count,
        "prompt": [[{"role": "user", "content": " ".join(["w"] * words)}]] * count,
        "reward_model": [{"style": "rule", "ground_truth": {"target": 3, "numbers": [1, 2]}}] * count,
    }
    table = pa.table({**rows, **columns})
    parquet.write_table(table, file)
    return file


def problems_of(config: Config) -> list[str]:
    """Return what preflight says about a resolved config."""
    return examine(config, faults_of(config)).problems


def parallel_problems(config: Config, shape: Shape | None, positions: int | None = None) -> list[str]:
    """Return what the checks of checks/parallelism.py say about a resolved config."""
    return [
        *rollout_problems(config, shape),
        *sequence_problems(config, shape),
        *sharding_problems(config),
        *token_problems(config),
        *length_problems(config, positions),
    ]


def the_problem(config: Config) -> str:
    (problem,) = problems_of(config)
    return problem


def sizes(make: Make, batch: int = 32, n: int = 5, mini: int = 16, gpus: int = 1, **values: Any) -> Config:
    return make(
        data__train_batch_size=batch,
        rollout__n=n,
        actor_rollout_ref__rollout__n=n,
        actor_rollout_ref__actor__ppo_mini_batch_size=mini,
        critic__ppo_mini_batch_size=mini,
        hardware__gpus_per_node=gpus,
        trainer__n_gpus_per_node=gpus,
        **values,
    )


DYNAMIC = {
    "actor_rollout_ref__actor__use_dynamic_bsz": True,
    "actor_rollout_ref__rollout__log_prob_use_dynamic_bsz": True,
    "actor_rollout_ref__ref__log_prob_use_dynamic_bsz": True,
    "critic__use_dynamic_bsz": True,
}


def suggestion(problem: str) -> dict[str, Any]:
    """Return the first override that a message suggests."""
    match = re.search(r"set ([\w.]+)=(\d+)", problem)
    assert match, problem
    return {match[1]: int(match[2])}
