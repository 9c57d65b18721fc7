"""Read from a config what it asks of a GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experiments.models.memory import Setup
from experiments.models.shape import Shape
from experiments.values import at, is_number, is_whole
from experiments.verl_keys import (
    ACTOR,
    CRITIC_TOKENS,
    DEFAULT_CRITIC_TOKENS,
    REFERENCE,
    ROLLOUT,
    has_critic,
    has_reference,
)

ESTIMATED = ("vllm", "hf")  # the engines whose memory memory.py can estimate


def fixed_setup(config: Mapping[str, Any], shape: Shape | None) -> Setup | None:
    """Return what a config asks of a GPU apart from what placement.py chooses, which has Setup's defaults.

    Reads no key that a preset may take from ${placement:...}, since placement.py starts from here. Tokens of a
    micro-batch are 0 if they are limited by such a key, and not by a number of samples.

    None on a CPU, if the shape or the memory is unknown, or if a size is invalid; preflight reports it.
    """
    memory, rollout = at(config, "hardware.memory_gib"), at(config, ROLLOUT)
    nodes, gpus = (at(config, f"trainer.{name}") for name in ("nnodes", "n_gpus_per_node"))
    prompt, response = (at(config, f"data.max_{name}_length") for name in ("prompt", "response"))
    batch, n, tensor = at(config, "data.train_batch_size"), rollout["n"], rollout["tensor_model_parallel_size"]
    known = is_number(memory) and memory > 0 and rollout["name"] in ESTIMATED
    if shape is None or not known or at(config, "trainer.device") == "cpu":
        return None
    if not all(is_whole(size, 1) for size in (nodes, gpus, prompt, response, batch, n, tensor)):
        return None
    actor, ref, reference = at(config, ACTOR), at(config, REFERENCE), has_reference(config)
    update = _tokens(actor, "use_dynamic_bsz", "ppo", prompt + response)
    infer = [_tokens(rollout, "log_prob_use_dynamic_bsz", "log_prob", prompt + response)]
    infer += [_tokens(ref, "log_prob_use_dynamic_bsz", "log_prob", prompt + response)] if reference else []
    if update is None or None in infer:
        return None
    return Setup(
        shape=shape,
        ranks=nodes * gpus,
        memory=float(memory),
        critic=has_critic(config),
        reference=reference,
        update_tokens=update,
        infer_tokens=max(tokens for tokens in infer if tokens is not None),
        fsdp_size=_group(actor["fsdp_config"]["fsdp_size"]),
        critic_fsdp_size=_group(at(config, "critic.fsdp.fsdp_size")),
        tensor_parallel=tensor,
        sequence=prompt + response,
        samples=batch * n * tensor // (nodes * gpus),
        padded=not at(config, "actor_rollout_ref.model.use_remove_padding"),
        fused=bool(at(config, "actor_rollout_ref.model.use_fused_kernels")),
        frees_cache=bool(rollout["free_cache_engine"]),
        copy_bytes=0 if rollout["name"] == "vllm" else 4 if rollout["dtype"] in ("float32", "fp32") else 2,
    )


def setup_of(config: Mapping[str, Any], shape: Shape | None) -> Setup | None:
    """Return all that a resolved config asks of a GPU; None as `fixed_setup`."""
    fixed = fixed_setup(config, shape)
    if fixed is None:
        return None
    actor, rollout, critic = at(config, ACTOR), at(config, ROLLOUT), config["critic"]
    infer = [rollout, *([at(config, REFERENCE)] if fixed.reference else [])]
    limits = [part["log_prob_max_token_len_per_gpu"] for part in infer if part["log_prob_use_dynamic_bsz"]]
    name = CRITIC_TOKENS.removeprefix("critic.")
    return replace(
        fixed,
        param_offload=actor["fsdp_config"]["param_offload"],
        optimizer_offload=actor["fsdp_config"]["optimizer_offload"],
        critic_param_offload=critic["fsdp"]["param_offload"],
        critic_optimizer_offload=critic["fsdp"]["optimizer_offload"],
        update_tokens=fixed.update_tokens or int(actor["ppo_max_token_len_per_gpu"]),
        infer_tokens=max(fixed.infer_tokens, *map(int, limits), 0),
        critic_tokens=int(critic.get(name, DEFAULT_CRITIC_TOKENS)) if fixed.critic else 0,
        utilization=0.0 if fixed.copy_bytes else float(rollout["gpu_memory_utilization"]),
        samples=min(fixed.samples, int(rollout["max_num_seqs"])) if fixed.copy_bytes else fixed.samples,
        checkpointing=at(config, "actor_rollout_ref.model.enable_gradient_checkpointing"),
        critic_checkpointing=at(config, "critic.model.enable_gradient_checkpointing"),
    )


def _group(size: Any) -> int:
    """Return over how many ranks a model is sharded; -1, all, for an invalid size; preflight reports it."""
    return size if is_whole(size, 1) else -1


def _tokens(section: Mapping[str, Any], dynamic: str, work: str, sequence: int) -> int | None:
    """Return the most tokens of a micro-batch of samples; 0 if it is cut by tokens; None if the size is invalid."""
    if section[dynamic]:
        return 0
    samples = section[f"{work}_micro_batch_size_per_gpu"]
    return samples * sequence if is_whole(samples, 1) else None
