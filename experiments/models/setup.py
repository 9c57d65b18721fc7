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

    Reads no key that a preset may take from ${placement:...}, since placement.py starts from here, and few keys that
    OmegaConf must resolve, since each such key of a preset asks again. Tokens of a micro-batch are 0 if they are
    limited by such a key, and not by a number of samples.

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
    actor, update, infer = at(config, ACTOR), 0, 0
    if not actor["use_dynamic_bsz"]:  # preflight sees to it that log-probs are cut in the same way
        cut = [(actor, "ppo"), (rollout, "log_prob")]
        cut += [(at(config, REFERENCE), "log_prob")] if has_reference(config) else []
        samples = [section[f"{work}_micro_batch_size_per_gpu"] for section, work in cut]
        if not all(is_whole(size, 1) for size in samples):
            return None
        update, infer = samples[0] * (prompt + response), max(samples[1:]) * (prompt + response)
    return Setup(
        shape=shape,
        ranks=nodes * gpus,
        memory=float(memory),
        critic=has_critic(config),
        update_tokens=update,
        infer_tokens=infer,
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
    actor, rollout, critic, reference = at(config, ACTOR), at(config, ROLLOUT), config["critic"], has_reference(config)
    limits = [rollout["log_prob_max_token_len_per_gpu"]]
    limits += [at(config, REFERENCE)["log_prob_max_token_len_per_gpu"]] if reference else []
    name = CRITIC_TOKENS.removeprefix("critic.")
    return replace(
        fixed,
        param_offload=actor["fsdp_config"]["param_offload"],
        optimizer_offload=actor["fsdp_config"]["optimizer_offload"],
        critic_param_offload=critic["fsdp"]["param_offload"],
        critic_optimizer_offload=critic["fsdp"]["optimizer_offload"],
        update_tokens=fixed.update_tokens or int(actor["ppo_max_token_len_per_gpu"]),
        infer_tokens=fixed.infer_tokens or max(map(int, limits)),
        reference=reference,
        critic_tokens=int(critic.get(name, DEFAULT_CRITIC_TOKENS)) if fixed.critic else 0,
        utilization=0.0 if fixed.copy_bytes else float(rollout["gpu_memory_utilization"]),
        samples=min(fixed.samples, int(rollout["max_num_seqs"])) if fixed.copy_bytes else fixed.samples,
        checkpointing=at(config, "actor_rollout_ref.model.enable_gradient_checkpointing"),
        critic_checkpointing=at(config, "critic.model.enable_gradient_checkpointing"),
    )


def _group(size: Any) -> int:
    """Return over how many ranks a model is sharded; -1, all, for an invalid size; preflight reports it."""
    return size if is_whole(size, 1) else -1
