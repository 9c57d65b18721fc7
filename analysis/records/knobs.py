"""The article's settings: how figures and tables call them, and which config keys they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

SHORT_NAMES = {
    "temperature": "rollout.temperature",
    "schedule": "temperature.schedule",
    "algorithm": "algorithm",  # no key of veRL's: records get it from `algorithm_of`
    "n": "rollout.n",
    "kl": "kl.coef",
    "model": "model.name",
    "task": "task.name",
}
ALGORITHM = SHORT_NAMES["algorithm"]
# How figures write the algorithms of conf/algorithm/, by the name of the file.
ALGORITHMS = {
    "grpo": "GRPO",
    "ppo": "PPO",
    "dr_grpo": "Dr. GRPO",
    "dapo": "DAPO",
    "rloo": "RLOO",
    "reinforce_plus_plus": "REINFORCE++",
    "reinforce_plus_plus_baseline": "REINFORCE++ baseline",
    "opo": "OPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "gpg": "GPG",
    "grpo_passk": "GRPO pass@k",
    "sapo": "SAPO",
    "clip_cov": "Clip-Cov",
    "kl_cov": "KL-Cov",
}
ESTIMATOR, ACTOR = "algorithm.adv_estimator", "actor_rollout_ref.actor."
ROLLED_OUT = "actor_rollout_ref."  # tables leave it out where a key begins so


def find_key(name: str, known: Collection[str]) -> str:
    """Return the key that a user's name means: a key as it is, as tables show it, or by an ending that is one key's.

    The name itself if it means none of the `known` keys.
    """
    if name in known:
        return name
    for key in (SHORT_NAMES.get(name), ROLLED_OUT + name):
        if key in known:
            return str(key)
    endings = [key for key in known if key.endswith(f".{name}")]
    return endings[0] if len(endings) == 1 else name


def algorithm_of(config: Mapping[str, Any]) -> str | None:
    """Return the file of conf/algorithm/ whose algorithm a flat veRL config describes; None if it has no estimator.

    An estimator is an algorithm of that name. GRPO's estimator serves several: a loss of its own tells them apart, or
    for DAPO the reward manager and for Dr. GRPO the advantages that are not divided and how the loss is summed.
    """
    estimator, loss = config.get(ESTIMATOR), config.get(f"{ACTOR}policy_loss.loss_mode")
    if estimator == "gae":
        return "ppo"
    if estimator != "grpo":
        return None if estimator is None else str(estimator)
    if loss not in (None, "vanilla"):
        return str(loss)
    if config.get("reward.reward_manager.name") == "dapo":
        return "dapo"
    undivided = config.get("algorithm.norm_adv_by_std_in_grpo") is False
    return "dr_grpo" if undivided and config.get(f"{ACTOR}loss_agg_mode") == "seq-mean-token-sum-norm" else "grpo"


def with_algorithm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat config with the algorithm's name added, if it tells it."""
    name = algorithm_of(config)
    return {**config, **({ALGORITHM: name} if name is not None else {})}
