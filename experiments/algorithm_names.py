"""Which algorithm of conf/algorithm/ a config describes. Light: the analysis uses it, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ESTIMATOR, ACTOR = "algorithm.adv_estimator", "actor_rollout_ref.actor"


def algorithm_of(config: Mapping[str, Any]) -> str | None:
    """Return the file of conf/algorithm/ whose algorithm a flat veRL config describes; None if it has no estimator.

    An estimator is an algorithm of that name. GRPO's estimator serves several: a loss of its own tells them apart, or
    for DAPO the reward manager and for Dr. GRPO the advantages that are not divided and how the loss is summed.
    """
    estimator, loss = config.get(ESTIMATOR), config.get(f"{ACTOR}.policy_loss.loss_mode")
    if estimator == "gae":
        return "ppo"
    if estimator != "grpo":
        return None if estimator is None else str(estimator)
    if loss not in (None, "vanilla"):
        return str(loss)
    if config.get("reward.reward_manager.name") == "dapo":
        return "dapo"
    undivided = config.get("algorithm.norm_adv_by_std_in_grpo") is False
    return "dr_grpo" if undivided and config.get(f"{ACTOR}.loss_agg_mode") == "seq-mean-token-sum-norm" else "grpo"
