"""Test training/temperature.py and conf/temperature/: golden values, and what holds for every schedule."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.checks.value_rules import faults
from experiments.config.identity import run_id, scientific
from experiments.config.verl import verl_node
from experiments.verl_plugin.training.temperature import at_step, set_temperature

Resolve = Callable[..., dict[str, Any]]


def schedule(kind: str, start: float = 1.2, end: float = 0.6, steps: int = 5) -> dict[str, Any]:
    return {"schedule": kind, "start": start, "end": end, "steps": steps}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [1.2, 1.05, 0.9, 0.75, 0.6, 0.6, 0.6]),
        ("cosine", [1.2, 1.1121320344, 0.9, 0.6878679656, 0.6, 0.6, 0.6]),
    ],
)
def test_golden_values(kind: str, expected: list[float]) -> None:
    assert [at_step(schedule(kind), step) for step in range(1, 8)] == pytest.approx(expected, abs=1e-9)


def test_piecewise_goes_through_its_points_in_straight_lines_and_stays() -> None:
    points = {"schedule": "piecewise", "start": 1.2, "points": [[3, 1.0], [4, 0.5], [6, 0.7]]}
    values = [at_step(points, step) for step in range(1, 9)]
    assert values == pytest.approx([1.2, 1.1, 1.0, 0.5, 0.6, 0.7, 0.7, 0.7], abs=1e-12)
    line = {"schedule": "piecewise", "start": 1.2, "points": [[5, 0.6]]}
    linear = [at_step(schedule("linear"), step) for step in range(1, 8)]
    assert [at_step(line, step) for step in range(1, 8)] == pytest.approx(linear)


temperatures = st.floats(0.01, 10)
any_schedule = st.builds(
    schedule, st.sampled_from(["linear", "cosine"]), temperatures, temperatures, st.integers(2, 1000)
)


@given(any_schedule)
def test_from_start_to_end_and_never_back_or_beyond(given_one: dict[str, Any]) -> None:
    start, end, steps = given_one["start"], given_one["end"], given_one["steps"]
    values = [at_step(given_one, step) for step in range(1, steps + 3)]
    assert values[0] == pytest.approx(start) and values[steps - 1 :] == pytest.approx([end] * 3)
    sign = 1 if end >= start else -1
    assert all(sign * (later - earlier) >= -1e-12 for earlier, later in itertools.pairwise(values))
    assert all(min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9 for value in values)


@given(any_schedule)
def test_both_ways_are_symmetric_about_the_middle(given_one: dict[str, Any]) -> None:
    steps = given_one["steps"]
    for step in range(1, steps + 1):
        mirrored = at_step(given_one, step) + at_step(given_one, steps + 1 - step)
        assert mirrored == pytest.approx(given_one["start"] + given_one["end"])


def test_another_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="must be linear, cosine or piecewise, but is 'sine'"):
        at_step(schedule("sine"), 1)


def test_only_training_s_temperature_is_set(resolved: Resolve) -> None:
    holder = SimpleNamespace(config=OmegaConf.create(verl_node(resolved("temperature=linear"))))
    OmegaConf.set_struct(holder.config, True)
    set_temperature(holder, 0.7)
    rollout = holder.config.actor_rollout_ref.rollout
    assert (rollout.temperature, rollout.val_kwargs.temperature) == (0.7, 1.0)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_groups_hand_veRL_a_whole_schedule(resolved: Resolve, kind: str) -> None:
    config = resolved(f"temperature={kind}", "rollout.temperature=1.2", "trainer.total_training_steps=40")
    assert config["temperature"] == {"schedule": kind, "end": 0.6, "steps": 40}
    handed = verl_node(config)["actor_rollout_ref"]["rollout"]["custom"]["temperature"]
    assert handed == schedule(kind, steps=40)
    assert faults(config) == {}


def test_a_constant_one_hands_veRL_nothing(resolved: Resolve) -> None:
    assert "custom" not in resolved()["actor_rollout_ref"]["rollout"]


def test_the_horizon_is_part_of_the_identity(resolved: Resolve) -> None:
    short, long, extended = (
        resolved("temperature=linear", *more)
        for more in (
            ["trainer.total_training_steps=40"],
            ["trainer.total_training_steps=80"],
            ["trainer.total_training_steps=80", "temperature.steps=40"],
        )
    )
    assert scientific(short)["temperature.steps"] == 40
    assert run_id(short) == run_id(extended) != run_id(long)
    assert run_id(resolved("temperature=cosine", "trainer.total_training_steps=40")) != run_id(short)


GROUPS = "set temperature=constant, temperature=linear, temperature=cosine or temperature=piecewise"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["temperature=linear", "temperature.end=-1"], "temperature.end must be a number above 0, but is -1; try 0.6"),
        (["temperature=cosine", "temperature.end=null"], "temperature.end must be a number above 0, but is None"),
        (
            ["temperature=linear", "temperature.steps=null"],
            "temperature.steps must be a whole number of at least 2, but is None; set it to the step",
        ),
        (["temperature=linear", "trainer.total_training_steps=1"], "temperature.steps must be a whole number of at"),
        (["temperature.schedule=linear"], f"must be chosen by its group, but is 'linear'; {GROUPS}"),
        (["temperature=linear", "temperature.schedule=constant"], "must be chosen by its group, but is 'constant'"),
        *(
            (
                ["temperature=piecewise", f"temperature.points={points}"],
                "points must be pairs of a step above 1 and a temp",
            )
            for points in (
                "[[3,1.0],[3,0.5]]",
                "[[1,0.5]]",
                "[]",
                "[[2,-1]]",
                "[[2.5,1]]",
                "3",
                "[[2]]",
                "[[4,1],null]",
            )
        ),
        (["temperature=linear", "temperature.schedule=sine"], f"must be chosen by its group, but is 'sine'; {GROUPS}"),
    ],
)
def test_mistakes_are_told_before_anything_starts(resolved: Resolve, overrides: list[str], problem: str) -> None:
    (told,) = faults(resolved(*overrides)).values()
    assert problem in told
