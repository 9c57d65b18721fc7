"""The keys of veRL's config that several parts of this project read, and what they say about a run."""

from __future__ import annotations

from experiments.values import Config, at

ACTOR, ROLLOUT, REFERENCE = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
MINI_BATCH = f"{ACTOR}.ppo_mini_batch_size"
# veRL 0.9.1 cuts the critic's micro-batches by this many tokens, whatever its other keys say (trainer_base.py,
# _init_resource_pool_to_cls). The key is a field of veRL's dataclass that veRL's own YAML does not name.
CRITIC_TOKENS, DEFAULT_CRITIC_TOKENS = "critic.ppo_infer_max_token_len_per_gpu", 32768

# Estimators that compare a response with the others of its group (verl/trainer/ppo/core_algos.py, veRL 0.9.1).
GROUPED = (
    *("grpo", "grpo_vectorized", "grpo_passk", "rloo", "rloo_vectorized", "opo", "gpg", "reinforce_plus_plus_baseline"),
)


def has_critic(config: Config) -> bool:
    """Return whether a critic is trained. As veRL 0.9.1 decides it: verl/trainer/ppo/utils.py, need_critic."""
    enabled = at(config, "critic.enable")
    return bool(enabled) if enabled is not None else bool(at(config, "algorithm.adv_estimator") == "gae")


def has_reference(config: Config) -> bool:
    """Return whether the reference model computes log-probabilities."""
    return bool(at(config, f"{ACTOR}.use_kl_loss") or at(config, "algorithm.use_kl_in_reward"))


def ranks_of(config: Config) -> int:
    """Return how many processes train: one for each GPU, or as many as a CPU run asks for."""
    return int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"])
