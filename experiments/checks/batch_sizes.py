"""Check how a batch divides: over the GPUs, into mini-batches, into micro-batches.

Read in veRL 0.9.1: verl/workers/engine_workers.py (train_mini_batch), verl/workers/engine/utils.py
(prepare_micro_batches), verl/utils/config.py (validate_config). veRL accepts a batch that its mini-batches do not
divide: trainer_base.py fills it up with padding to a common multiple, and trains on the padding too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.values import at, divisors, is_whole
from experiments.verl_keys import ACTOR, GROUPED, MINI_BATCH, REFERENCE, ROLLOUT, has_critic, has_reference, ranks_of

BATCH = "data.train_batch_size"


def key_of(config: Mapping[str, Any], ours: str, verls: str) -> str:
    """Return the key to name in a message: ours if veRL's has the same value, else veRL's, which was set by itself."""
    return ours if at(config, ours) == at(config, verls) else verls


def group_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem if an estimator that compares the responses of a group has groups of one response."""
    n, key = at(config, f"{ROLLOUT}.n"), key_of(config, "rollout.n", f"{ROLLOUT}.n")
    estimator = at(config, "algorithm.adv_estimator")
    if estimator not in GROUPED or n >= 2:
        return []
    if estimator == "grpo":
        return [
            f"{key} must be at least 2 with GRPO, but is {n}: a group of one has no mean to compare with "
            f"(it would silently be REINFORCE); set {key}=5 or algorithm=ppo"
        ]
    return [
        f"{key} must be at least 2 with algorithm.adv_estimator={estimator}, but is {n}: a group of one has no "
        f"other response to compare with; set {key}=5 or algorithm=reinforce_plus_plus"
    ]


def batch_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of sizes. veRL would report them minutes later inside Ray, or silently add padding."""
    found = [*group_problems(config), *size_problems(config)]
    return found or micro_batch_problems(config)  # with wrong sizes, what it says would be wrong too


def size_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the batch and the mini-batches."""
    n, batch, ranks = int(at(config, f"{ROLLOUT}.n")), int(at(config, BATCH)), ranks_of(config)
    multiple = ranks // math.gcd(ranks, n)  # the samples of a multiple of this divide over the ranks
    if batch % multiple:
        return [
            f"{BATCH} x {key_of(config, 'rollout.n', f'{ROLLOUT}.n')} must be a multiple of the {ranks} GPUs, but is "
            f"{batch} x {n}; set {BATCH}={-(-batch // multiple) * multiple}"
        ]
    mini, critic = int(at(config, MINI_BATCH)), at(config, "critic.ppo_mini_batch_size")
    found = mini_batch_problems(MINI_BATCH, mini, config)
    if has_critic(config) and critic != mini:
        found += mini_batch_problems("critic.ppo_mini_batch_size", int(critic), config)
    return found


def mini_batch_problems(key: str, mini: int, config: Mapping[str, Any]) -> list[str]:
    """Return a problem if the mini-batch of the actor or the critic (`key`) does not divide the batch."""
    n, batch, ranks = int(at(config, f"{ROLLOUT}.n")), int(at(config, BATCH)), ranks_of(config)
    multiple = ranks // math.gcd(ranks, n)
    fitting = [size for size in divisors(batch) if size % multiple == 0]
    best = max((size for size in fitting if size <= mini), default=min(fitting, default=batch))
    if mini > batch:
        return [f"{key} must be at most {BATCH}={batch}, but is {mini}; set {key}={batch}"]
    if batch % mini:
        return [
            f"{BATCH} must be a multiple of {key}={mini}, but is {batch}: veRL would fill the last mini-batch with "
            f"padding; set {key}={best}"
        ]
    if mini % multiple:
        return [
            f"{key} x {key_of(config, 'rollout.n', f'{ROLLOUT}.n')} must be a multiple of the {ranks} GPUs, but is "
            f"{mini} x {n}; set {key}={best}"
        ]
    return []


def micro_batch_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the micro-batches.

    In an update they must divide a rank's mini-batch; for log-probabilities, a rank's share of the whole batch.
    """
    actor_rollout_ref, critic = config["actor_rollout_ref"], config["critic"]
    actor, rollout, ref = (actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
    n, ranks = int(rollout["n"]), ranks_of(config)
    per_update, per_step = int(actor["ppo_mini_batch_size"]) * n // ranks, int(at(config, BATCH)) * n // ranks
    asked = [
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu", actor, "use_dynamic_bsz", per_update),
        (f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu", rollout, "log_prob_use_dynamic_bsz", per_step),
    ]
    if has_reference(config):
        asked.append((f"{REFERENCE}.log_prob_micro_batch_size_per_gpu", ref, "log_prob_use_dynamic_bsz", per_step))
    if has_critic(config):
        of_critic = int(critic["ppo_mini_batch_size"]) * n // ranks
        asked.append(("critic.ppo_micro_batch_size_per_gpu", critic, "use_dynamic_bsz", of_critic))
    found = []
    for key, section, dynamic, share in asked:
        micro = section[key.rsplit(".", 1)[-1]]
        usable = is_whole(micro, 1)
        if section[dynamic] or (usable and share % micro == 0):
            continue
        most = min(share, micro if usable else 16)
        best = max(size for size in divisors(share) if size <= most)
        found.append(f"{key} must divide the {share} samples of a GPU, but is {micro!r}; set {key}={best}")
    return found
