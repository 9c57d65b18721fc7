"""Test config/sweep_jobs.py: the jobs of a command are those of Hydra's own basic sweeper, and no mapping is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from experiments.config.sweep_compose import Composer
from experiments.config.sweep_jobs import jobs, product
from experiments.errors import UserError

PLAIN = ["a=1", "a=2,3", "b.c=x", "b.c=[1,2]", "+d=range(1,4)", "~e", "a=choice(5,6)", "f=null", "g=${a}"]


@given(st.lists(st.sampled_from(PLAIN), max_size=6))
def test_jobs_are_those_of_hydra_s_basic_sweeper(lines: list[str]) -> None:
    parsed = OverridesParser.create().parse_overrides(lines)
    (expected,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert product(parsed) == [list(job) for job in expected]


OPTIM = "actor_rollout_ref.actor.optim"


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([f"{OPTIM}={{lr: 1e-5}}", f"{OPTIM}={{weight_decay: 0.5}}"], [(1e-5, 0.5)]),
        ([f"{OPTIM}={{lr: 1e-5}}", f"{OPTIM}={{lr: 1e-4}}"], [(1e-4, 0.01)]),
        ([f"{OPTIM}={{lr: 1e-5}}", f"{OPTIM}={{weight_decay: 0.5}},{{weight_decay: 0.1}}"], [(1e-5, 0.5), (1e-5, 0.1)]),
        ([f"{OPTIM}.lr=1e-5", f"{OPTIM}={{weight_decay: 0.5}}"], [(1e-5, 0.5)]),
    ],
)
def test_two_mappings_for_one_key_are_merged(
    composer: Composer, lines: list[str], values: list[tuple[float, float]]
) -> None:
    """As Hydra merges them for a single run; the sweeper used to keep the last one only."""
    found: list[Any] = [composer.compose(job).config.actor_rollout_ref.actor.optim for job in jobs(lines)]
    assert [(optim.lr, optim.weight_decay) for optim in found] == values


def test_an_interval_is_for_a_sweeper_that_optimises() -> None:
    with pytest.raises(UserError, match="must have values that can be listed") as refused:
        jobs(["rollout.temperature=interval(0.6,1.2)"])
    assert "rollout.temperature=interval(0.6,1.2) is an interval; list its values with commas" in str(refused.value)
