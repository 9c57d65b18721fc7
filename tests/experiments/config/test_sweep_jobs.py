"""Test config/sweep_jobs.py: the jobs of a command are those of Hydra's own basic sweeper, and no mapping is lost."""

from __future__ import annotations

from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.config.hydra_internals import apply_values
from experiments.config.product import product
from experiments.config.sweep_compose import Composer
from experiments.config.sweep_jobs import jobs
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
        ([f"{OPTIM}.lr=1e-5", f"{OPTIM}={{lr: 1e-4}}", f"{OPTIM}.lr=1e-3"], [(1e-3, 0.01)]),
        ([f"{OPTIM}.lr=1e-5,1e-6", f"{OPTIM}={{lr: 1e-4}}", f"{OPTIM}.lr=1e-3"], [(1e-3, 0.01)]),
        ([f"++{OPTIM}={{lr: 1e-5}}", f"++{OPTIM}={{weight_decay: 0.5}}"], [(1e-5, 0.5)]),
        ([f"{OPTIM}={{lr: 1e-5}}", f"++{OPTIM}={{weight_decay: 0.5}}"], [(1e-5, 0.5)]),
        ([f"{OPTIM}.lr=1e-5", f"++{OPTIM}.lr=1e-4", f"{OPTIM}.lr=1e-3"], [(1e-3, 0.01)]),
    ],
)
def test_two_mappings_for_one_key_are_merged(
    composer: Composer, lines: list[str], values: list[tuple[float, float]]
) -> None:
    """As Hydra merges them for a single run; the sweeper used to keep the last one only."""
    found: list[Any] = [composer.compose(job).config.actor_rollout_ref.actor.optim for job in jobs(lines)]
    assert [(optim.lr, optim.weight_decay) for optim in found] == values


@pytest.mark.parametrize("lines", [("kl={coef: 0.5}", "kl=default"), ("kl=default", "kl={coef: 0.5}")])
def test_a_group_s_choice_leaves_the_values_of_its_node(composer: Composer, lines: tuple[str, str]) -> None:
    assert [composer.compose(job).config.kl.coef for job in jobs(lines)] == [0.5]


@pytest.mark.parametrize("sign", ["+", "++"])
def test_two_mappings_for_a_new_key_are_merged(composer: Composer, sign: str) -> None:
    (job,) = jobs([f"{sign}hardware.mine={{a: 1}}", f"{sign}hardware.mine={{b: {{c: 2}}}}"])
    assert composer.compose(job).config.hardware.mine == {"a": 1, "b": {"c": 2}}


KEYS = ["tracking.tags", "tracking.tags.a", "tracking.tags.a.b"]
VALUES = ["{a: 1}", "{a: {b: 2}}", "{c: 3}", "7", "null", "{}"]


@given(
    st.lists(
        st.builds("{}={}".format, st.sampled_from([*KEYS, *("++" + key for key in KEYS)]), st.sampled_from(VALUES)),
        max_size=5,
    )
)
def test_a_single_job_is_composed_as_hydra_composes_a_single_run(lines: list[str]) -> None:
    """Whatever the overrides do to each other, one after the other; where Hydra refuses, so do we."""
    (job,) = jobs(lines)
    assert outcome(job) == outcome(lines)


def outcome(lines: list[str]) -> Any:
    config = OmegaConf.create({"tracking": {"tags": None}})
    try:
        apply_values(OverridesParser.create().parse_overrides(lines), config)
    except HydraException:
        return "refused"
    return OmegaConf.to_container(config)


@pytest.mark.parametrize(
    "line", ["kl={coef: 0.1}", "kl.coef=0.1", "++kl.coef=0.1", "~kl.coef", "kl={coef: 0.1},{coef: 0.2}"]
)
def test_what_a_sweep_varies_must_not_be_set_beside_it(line: str) -> None:
    with pytest.raises(UserError, match=r"kl\.coef must not be set beside sweeps=kl, which varies it"):
        jobs(["sweeps=kl", line])


def test_what_a_sweep_leaves_may_be_set_beside_it() -> None:
    assert len(jobs(["sweeps=kl,algorithm", "kl=default", "kl={type: kl}", "algorithm.gamma=0.9"])) == 15


def test_an_interval_is_for_a_sweeper_that_optimises() -> None:
    with pytest.raises(UserError, match="must have values that can be listed") as refused:
        jobs(["rollout.temperature=interval(0.6,1.2)"])
    assert "rollout.temperature=interval(0.6,1.2) is an interval; list its values with commas" in str(refused.value)
