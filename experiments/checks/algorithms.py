"""Check an algorithm as a whole: estimators that veRL's trainer can't serve, filters, penalties, resuming.

Read in veRL 0.9.1: verl/trainer/ppo/core_algos.py (the estimators), verl/trainer/ppo/v1/trainer_base.py
(_compute_advantage gives an estimator the rewards, the masks, the log-probs and the prompts' ids, and nothing else),
verl/trainer/ppo/v1/replay_buffer.py (groups that are filtered out), verl/trainer/ppo/rollout_corr_helper.py,
verl/experimental/reward_loop/reward_manager/dapo.py (the penalty for long responses).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.checks.batch_sizes import key_of
from experiments.values import at, is_number, is_whole
from experiments.verl_keys import ROLLOUT, has_critic

ESTIMATOR = "algorithm.adv_estimator"
# Estimators that ask for what veRL's own trainer never gives them, and what that is.
UNSERVED = {
    "remax": "the reward of a greedy response to each prompt",
    "gdpo": "the parts of the reward",
    "optimal_token_baseline": "the sum of squared probabilities of each token",
    "tir_optimal_token_baseline": "the sum of squared probabilities of each token",
}
FILTER = "algorithm.filter_groups"
PENALTY = "reward.reward_kwargs.overlong_buffer_cfg"
LONGEST = "reward.reward_kwargs.max_resp_len"
CORRECTION = "algorithm.rollout_correction"
WEIGHTS = ("token", "sequence")
REJECTIONS = (
    *(f"{level}_k{k}" for level in ("token", "seq_sum", "seq_mean") for k in (1, 2, 3)),
    *("seq_max_k2", "seq_max_k3"),
)


def algorithm_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the algorithm. veRL would stop in its first step, or train something else without a word."""
    return [
        *estimator_problems(config),
        *filter_problems(config),
        *penalty_problems(config),
        *warmup_problems(config),
        *correction_problems(config),
    ]


def estimator_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of an estimator that veRL's trainer can't serve, or whose state no checkpoint has."""
    found, estimator = [], at(config, ESTIMATOR)
    if estimator in UNSERVED:
        found.append(
            f"{ESTIMATOR} must be one that veRL's trainer can serve, but is {estimator}: it asks for "
            f"{UNSERVED[estimator]}, which the trainer of veRL 0.9.1 does not hand over; set algorithm=grpo, or "
            f"{ESTIMATOR}=rloo"
        )
    if estimator == "gae" and not has_critic(config):
        found.append(
            f"critic.enable must be null or true with {ESTIMATOR}=gae, but is false: its advantages are made of the "
            "critic's values; leave it out, or set algorithm=grpo"
        )
    if at(config, "algorithm.use_pf_ppo"):
        found.append(
            "algorithm.use_pf_ppo must be false, but is true: the trainer of veRL 0.9.1 would give the advantages of "
            "the redrawn samples to other samples; set algorithm.use_pf_ppo=false"
        )
    if at(config, "distillation.enabled"):
        found.append(
            "distillation.enabled must be false, but is true: the workers do not fetch a teacher's log-probs "
            "(verl_plugin/training/trainer.py), so the first update would stop; set distillation.enabled=false"
        )
    if at(config, "algorithm.use_kl_in_reward") and at(config, "algorithm.kl_ctrl.type") != "fixed":
        found.append(
            f"algorithm.kl_ctrl.type must be fixed, but is {at(config, 'algorithm.kl_ctrl.type')!r}: a checkpoint does "
            "not hold an adapted coefficient, so a resumed run would start again from kl.coef; set "
            "algorithm.kl_ctrl.type=fixed"
        )
    return found


def filter_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of veRL's filter for groups without a signal (DAPO's dynamic sampling)."""
    filters, batch, chunk = (
        at(config, FILTER) or {},
        at(config, "data.train_batch_size"),
        at(config, "data.gen_batch_size"),
    )
    found = []
    if not isinstance(filters.get("enable"), bool):
        return [f"{FILTER}.enable must be true or false, but is {filters.get('enable')!r}; try false"]
    if chunk is not None and batch % chunk:
        found.append(f"data.gen_batch_size must divide data.train_batch_size={batch}, but is {chunk}; leave it out")
    if not filters["enable"]:
        return found
    if not isinstance(filters.get("metric"), str):
        found.append(
            f"{FILTER}.metric must be a text, but is {filters.get('metric')!r}; try reward, or a part of the score "
            "such as acc"
        )
    if not is_whole(filters.get("max_inflight_gen_batches"), 1):
        found.append(
            f"{FILTER}.max_inflight_gen_batches must be a whole number of at least 1, but is "
            f"{filters.get('max_inflight_gen_batches')!r}; try 1"
        )
    if filters.get("max_num_gen_batches"):
        found.append(
            f"{FILTER}.max_num_gen_batches must be 0, but is {filters['max_num_gen_batches']!r}: veRL 0.9.1 does not "
            "read it; leave it out"
        )
    if at(config, f"{ROLLOUT}.n") < 2:
        found.append(
            f"{key_of(config, 'rollout.n', f'{ROLLOUT}.n')} must be at least 2 with {FILTER}.enable=true, but is "
            f"{at(config, f'{ROLLOUT}.n')}: a group of one is never filtered; set rollout.n=5"
        )
    return found


def penalty_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of DAPO's penalty for responses that come close to the longest length."""
    kwargs = config["reward"].get("reward_kwargs") or {}
    penalty = kwargs.get("overlong_buffer_cfg") or {}
    if at(config, "reward.reward_manager.name") != "dapo" or not penalty.get("enable"):
        return []
    found, longest, last = [], at(config, "data.max_response_length"), penalty.get("len")
    if kwargs.get("max_resp_len") != longest:
        found.append(
            f"{LONGEST} must be data.max_response_length={longest}, but is {kwargs.get('max_resp_len')!r}: the penalty "
            "would begin at another length; leave it to algorithm=dapo"
        )
    if not is_whole(last, 1) or last > longest:
        found.append(
            f"{PENALTY}.len must be a whole number from 1 to data.max_response_length={longest}, but is {last!r}; "
            f"try {max(longest // 5, 1)}"
        )
    if not is_number(factor := penalty.get("penalty_factor")) or factor <= 0:
        found.append(f"{PENALTY}.penalty_factor must be a number above 0, but is {factor!r}; try 1.0")
    if penalty.get("log"):
        found.append(
            f"{PENALTY}.log must be false, but is {penalty['log']!r}: the parts that veRL 0.9.1 would log are no "
            "numbers, so their means would be 0; leave it out"
        )
    return found


def warmup_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem if the policy is not trained in the run's first steps, or in none of them."""
    warmup, steps = at(config, "trainer.critic_warmup"), at(config, "trainer.total_training_steps")
    if warmup and not has_critic(config):
        return [
            f"trainer.critic_warmup must be 0 without a critic, but is {warmup}: veRL would train nothing in the first "
            f"{warmup - 1} steps; set trainer.critic_warmup=0 or algorithm=ppo"
        ]
    if warmup > steps:
        return [
            f"trainer.critic_warmup must be at most trainer.total_training_steps={steps}, but is {warmup}: the policy "
            f"would never be trained; set trainer.critic_warmup=0"
        ]
    return []


def correction_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of veRL's corrections for a rollout engine that samples from other probabilities."""
    correction = at(config, CORRECTION)
    if not correction:
        return []
    found = []
    weights, rejections = correction.get("rollout_is"), correction.get("rollout_rs")
    if weights is not None and weights not in WEIGHTS:
        found.append(f"{CORRECTION}.rollout_is must be null, token or sequence, but is {weights!r}; try token")
    if weights is not None and not _bounds(correction.get("rollout_is_threshold")):
        found.append(
            f"{CORRECTION}.rollout_is_threshold must be a number above 0, or two such as 0.5_2.0, but is "
            f"{correction.get('rollout_is_threshold')!r}; try 2.0"
        )
    if rejections is not None:
        named = [part.strip() for part in str(rejections).split(",") if part.strip()]
        known = bool(named) and all(part in REJECTIONS for part in named)
        if not known:
            found.append(
                f"{CORRECTION}.rollout_rs must be null or some of {', '.join(REJECTIONS)}, but is {rejections!r}; "
                "try token_k1"
            )
        threshold = correction.get("rollout_rs_threshold")
        limits = [part.strip() for part in str(threshold).split(",") if part.strip()]
        whole = threshold is not None and len(limits) in (1, len(named)) and all(map(_bounds, limits))
        if known and not whole:
            found.append(
                f"{CORRECTION}.rollout_rs_threshold must be one bound above 0 for each of rollout_rs, but is "
                f"{threshold!r}; try 2.0"
            )
    if correction.get("bypass_mode") not in (False, None):
        found.append(
            f"{CORRECTION}.bypass_mode must be false, but is {correction['bypass_mode']!r}: the trainer of veRL 0.9.1 "
            f"does not hand the correction's settings to the loss; set {CORRECTION}.bypass_mode=false"
        )
    return found


def _bounds(value: Any) -> bool:
    """Return whether a value is a positive number, or a text of one or two positive numbers joined by _."""
    if is_number(value):
        return value > 0
    if not isinstance(value, str):
        return False
    try:
        numbers = [float(part) for part in value.split("_", 1)]
    except ValueError:
        return False
    return all(number > 0 for number in numbers) and numbers == sorted(numbers)
