"""Check whether each phase of a step fits a GPU, by the estimate of models/memory.py, and name settings that need less.

The estimate's constants have not been confirmed on a GPU. So a problem names the settings to change, but no values.
"""

from __future__ import annotations

from experiments.models.memory import Setup, phases, verdict
from experiments.values import Config, at
from experiments.verl_keys import ACTOR, CRITIC_TOKENS, REFERENCE, ROLLOUT

SHARE, TENSOR = f"{ROLLOUT}.gpu_memory_utilization", f"{ROLLOUT}.tensor_model_parallel_size"


def memory_problems(config: Config, setup: Setup | None) -> list[str]:
    """Return a problem for each phase that does not fit, with the settings that need less.

    `setup`: what the config asks of a GPU (models.memory.setup_of); None if unknown, and then there are no problems.
    """
    if setup is None:
        return []
    found = []
    if setup.utilization and setup.concurrent < 1:
        found.append(
            f"{SHARE} must leave room for the weights and the KV cache of one whole response, but "
            f"{setup.utilization:g} of {setup.memory:g} GiB leaves {setup.kv_room:.1f} GiB for the cache; "
            f"raise {SHARE} or {TENSOR}, or take a smaller model"
        )
    for phase in phases(setup):
        if verdict(phase, setup.memory) == "does not fit":
            most = sorted(phase.parts, key=lambda name: -phase.parts[name])[:3]
            parts = ", ".join(f"{name} {phase.parts[name]:.0f}" for name in most)
            found.append(
                f"the {phase.name} phase must fit hardware.memory_gib={setup.memory:g}, but needs about "
                f"{phase.total:.0f} GiB ({parts}); {remedy(setup, phase.name, config)} "
                "(hardware.memory_gib=null skips this estimate)"
            )
    return found


def remedy(setup: Setup, phase: str, config: Config) -> str:
    """Return the settings with which a phase ("rollout", "weight sync", ...) needs less, the cheapest first."""
    alone = {"rollout": [SHARE], "weight sync": []}
    lower = alone[phase] if phase in alone else _micro_batches(setup, phase, config)
    switch = []
    if phase == "update":
        models = {"actor_rollout_ref": setup.checkpointing, "critic": setup.critic_checkpointing or not setup.critic}
        switch = [f"{name}.model.enable_gradient_checkpointing" for name, done in models.items() if not done]
    for part in ("optimizer", "param"):
        if not getattr(setup, f"{part}_offload"):
            switch.append(f"{ACTOR}.fsdp_config.{part}_offload")
        if setup.critic and not getattr(setup, f"critic_{part}_offload"):
            switch.append(f"critic.fsdp.{part}_offload")
    ways = [f"lower {' and '.join(lower)}"] if lower else []
    ways += [f"set {' or '.join(switch)} to true"] if switch else []
    ways.append("take more GPUs (hardware.gpus_per_node) or larger ones (hardware=h200x8)")
    return ", or ".join([", ".join(ways[:-1]), ways[-1]] if ways[1:] else ways)


def _micro_batches(setup: Setup, phase: str, config: Config) -> list[str]:
    """Return the keys that limit the micro-batches of a phase ("log-prob" or "update"), in tokens or in samples."""
    if phase == "update":
        sections, work, switch = [ACTOR], "ppo", f"{ACTOR}.use_dynamic_bsz"
    else:
        sections, work = [ROLLOUT, *([REFERENCE] if setup.reference else [])], "log_prob"
        switch = f"{ROLLOUT}.log_prob_use_dynamic_bsz"
    size = "max_token_len_per_gpu" if at(config, switch) else "micro_batch_size_per_gpu"
    return [*(f"{section}.{work}_{size}" for section in sections), *([CRITIC_TOKENS] if setup.critic else [])]
