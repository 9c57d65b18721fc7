"""checks/value_rules.py and the learning rates: each value out of its range is named, with a value to try."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.checks.value_rules import faults
from tests.experiments.right_config import (
    Make,
    problems_of,
    the_problem,
    with_values,
)

NUMBERS = {
    "rollout.temperature": ("a number above 0", "try 1.0"),
    "rollout.n": ("a whole number of at least 1", "try 5"),
    "kl.coef": ("a number of at least 0", "try 0.001, or 0 for no KL term"),
    "seed": ("a whole number of at least 0", "try 1"),
    "trainer.total_training_steps": ("a whole number of at least 1", "try 50"),
    "data.train_batch_size": ("a whole number of at least 1", "try a power of two"),
    "data.max_prompt_length": ("a whole number of at least 1", "try a power of two"),
    "data.max_response_length": ("a whole number of at least 1", "try a power of two"),
    "actor_rollout_ref.actor.ppo_mini_batch_size": ("a whole number of at least 1", "try 16"),
    "hardware.gpus_per_node": ("a whole number of at least 1", "try 1"),
    "hardware.nodes": ("a whole number of at least 1", "try 1"),
    "task.train_size": ("a whole number of at least 1", "try 1000"),
    "task.test_size": ("a whole number of at least 1", "try 1000"),
    "task.data_seed": ("a whole number of at least 0", "try 0"),
}
NOT_NUMBERS = ["five", None, True, [1], -1, float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("key", NUMBERS)
def test_a_value_out_of_range_is_named_with_what_to_try(make: Make, key: str) -> None:
    kind, do = NUMBERS[key]
    bad = list(NOT_NUMBERS)
    if kind.startswith("a whole"):
        bad.append(2.5)
    if not kind.endswith("at least 0"):
        bad.append(0)
    for value in bad:
        problem = the_problem(with_values(make(), {key: value}))
        assert problem == f"{key} must be {kind}, but is {value!r}; {do}"


@pytest.mark.parametrize("key", NUMBERS)
def test_the_smallest_value_allowed_is_allowed(make: Make, key: str) -> None:
    kind, _ = NUMBERS[key]
    smallest = 0 if kind.endswith("at least 0") else 1e-3 if kind.endswith("above 0") else 1
    assert faults(with_values(make(), {key: smallest})) == {}
    if kind.startswith("a whole"):
        assert faults(with_values(make(), {key: 3.0})) != {}, "veRL's loops count with integers only"


@pytest.mark.parametrize("key", ["trainer.nnodes", "trainer.n_gpus_per_node"])
@pytest.mark.parametrize("value", [0, -1, "two"])
def test_veRL_s_own_number_of_ranks_is_checked_too(make: Make, key: str, value: Any) -> None:
    assert the_problem(with_values(make(), {key: value})).startswith(
        f"{key} must be a whole number of at least 1, but is"
    )


def test_show_has_four_values(make: Make) -> None:
    assert the_problem(make(show="cfg")) == "show must be config, verl, plan or json, but is 'cfg'; leave it out to run"
    for good in (None, "config", "verl", "plan", "json"):
        assert problems_of(make(show=good)) == []


@pytest.mark.parametrize("value", ["wandb", ["console"], None])
def test_metrics_go_to_the_file_that_figures_are_drawn_from(make: Make, value: Any) -> None:
    assert the_problem(make(trainer__logger=value)).startswith("trainer.logger must be a list with file in it, ")
    assert problems_of(make(trainer__logger=["console", "file"])) == []


@pytest.mark.parametrize("value", [None, "", 3])
@pytest.mark.parametrize("key", ["runs_dir", "data_dir"])
def test_folders_are_texts(make: Make, key: str, value: Any) -> None:
    problem = the_problem(with_values(make(), {key: value}))
    assert problem == f"{key} must be a folder, but is {value!r}; leave it out, or set {key}=/a/path"


@pytest.mark.parametrize("key", ["actor_rollout_ref.actor.optim.lr", "critic.optim.lr"])
def test_a_learning_rate_is_no_negative_number(make: Make, key: str) -> None:
    for value in (-1e-6, "fast", None, float("inf")):
        assert the_problem(with_values(make(), {key: value})) == (
            f"{key} must be a number of at least 0, but is {value!r}; try 1e-6"
        )
    assert problems_of(with_values(make(), {key: 0})) == []
