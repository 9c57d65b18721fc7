"""verl_plugin/lifecycle/signal_check.py: which numbers stop a run, and which rewards leave nothing to learn."""

from __future__ import annotations

import math

import pytest

from experiments.verl_plugin.lifecycle.signal_check import NotFinite, check_finite, never_rewarded, without_signal


@pytest.mark.parametrize("name", ["actor/pg_loss", "actor/kl_loss", "actor/grad_norm", "critic/vf_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_or_gradient_must_be_finite(name: str, value: float) -> None:
    with pytest.raises(NotFinite, match=f"{name} must be finite, but is {value} in step 7"):
        check_finite({"actor/lr": 1.0, name: value}, 7)


def test_other_metrics_may_be_anything() -> None:
    check_finite({"critic/vf_explained_var": math.nan, "actor/grad_norm": 0.0, "training/x_loss": math.inf}, 1)


def test_a_group_with_two_rewards_is_a_signal() -> None:
    assert without_signal({"a": [0.0, 0.0], "b": [0.0, 0.1]}) is None
    assert "(all are 0.1)" in str(without_signal({"a": [0.1, 0.1], "b": [0.1]}))
    assert "they differ between groups only" in str(without_signal({"a": [0.0, 0.0], "b": [1.0, 1.0]}))
    assert without_signal({}) is None


def test_a_validation_whose_responses_all_have_one_reward() -> None:
    assert never_rewarded([0.0, 0.1]) is None and never_rewarded([0.0]) is None
    assert "all 3 responses of the first validation have the same reward, 0" in str(never_rewarded([0.0] * 3))
