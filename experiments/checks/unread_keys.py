"""Find settings that would have no effect: KL coefficients without their switch, and keys that veRL no longer reads.

Also the KL term that would count twice, and learning rates that are no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.values import at, is_whole
from experiments.verl_keys import ACTOR, CRITIC_TOKENS, ROLLOUT, ranks_of

LOSS, REWARD = f"{ACTOR}.use_kl_loss", "algorithm.use_kl_in_reward"
# The coefficients, each with the switch without which veRL does not read it; and veRL's default of both coefficients.
COEFFICIENTS = ((f"{ACTOR}.kl_loss_coef", LOSS), ("algorithm.kl_ctrl.kl_coef", REWARD))
DEFAULT_COEFFICIENT = 0.001

# The estimators whose papers subtract the KL term from the reward; the others have it in the loss.
KL_IN_REWARD = ("gae", "rloo", "rloo_vectorized", "reinforce_plus_plus")

# Keys of the veRL of TinyZero's time: (old key, its default, the key that counts now, what veRL does with the old one).
_TOGETHER, _IGNORED = "refuses the old key, which counted all GPUs together", "ignores the old key"
LEGACY: tuple[tuple[str, Any, str, str], ...] = (
    (f"{ACTOR}.ppo_micro_batch_size", None, f"{ACTOR}.ppo_micro_batch_size_per_gpu", _TOGETHER),
    (f"{ROLLOUT}.log_prob_micro_batch_size", None, f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", _TOGETHER),
    (
        "actor_rollout_ref.ref.log_prob_micro_batch_size",
        None,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
        _TOGETHER,
    ),
    ("critic.ppo_micro_batch_size", None, CRITIC_TOKENS, _TOGETHER),
    ("custom_reward_function.path", None, "reward.custom_reward_function.path", _IGNORED),
    ("custom_reward_function.name", None, "reward.custom_reward_function.name", _IGNORED),
    ("reward_model.reward_manager", None, "reward.reward_manager.name", _IGNORED),
    (f"{ACTOR}.grad_clip", 1.0, f"{ACTOR}.optim.clip_grad", _IGNORED),
    ("critic.grad_clip", 1.0, "critic.optim.clip_grad", _IGNORED),
)


def kl_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the KL term: it counts twice, or a coefficient has no effect."""
    found = []
    if at(config, LOSS) and at(config, REWARD):
        wrong = LOSS if at(config, "algorithm.adv_estimator") in KL_IN_REWARD else REWARD
        found.append(
            f"{LOSS} and {REWARD} must not both be true, but are: the KL term would count twice; set {wrong}=false"
        )
    for key, switch in COEFFICIENTS:
        value = at(config, key)
        if not at(config, switch) and value not in (0, DEFAULT_COEFFICIENT, at(config, "kl.coef")):
            found.append(
                f"{key} must be {DEFAULT_COEFFICIENT}, its default, while {switch} is false, but is {value!r}: veRL "
                f"would not read it; set {key}={DEFAULT_COEFFICIENT} (kl.coef sets the one that counts)"
            )
    return found


def legacy_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem for each old key that is set although veRL refuses it or no longer reads it."""
    found = []
    for old, default, new, does in LEGACY:
        value = at(config, old)
        if value == default:
            continue
        left, instead = "null" if default is None else default, "null" if value is None else value
        if does is _TOGETHER:
            instead = max(1, value // ranks_of(config)) if is_whole(value, 1) else 1
            if new == CRITIC_TOKENS:  # veRL 0.9.1 cuts the critic's batches by tokens: those of so many samples
                instead *= config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
        found.append(
            f"{old} must be {left}, but is {value!r}: veRL {does}; set {old}={left} {new}={instead}"
            + (", which counts one GPU" if does is _TOGETHER else "")
        )
    return found


def rate_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the learning rates. A text that veRL reads as a number has already become that number."""
    rates = {
        "actor_rollout_ref.actor.optim.lr": config["actor_rollout_ref"]["actor"]["optim"]["lr"],
        "critic.optim.lr": config["critic"]["optim"]["lr"],
    }
    return [
        f"{key} must be a number of at least 0, but is {rate!r}; try 1e-6"
        for key, rate in rates.items()
        if not isinstance(rate, (int, float)) or not 0 <= rate < float("inf")
    ]
