"""Check how a model and its sequences are split over GPUs: veRL and vLLM would refuse a wrong split minutes later.

Read in veRL 0.9.1: verl/workers/engine_workers.py (init_model), verl/utils/seqlen_balancing.py, verl/workers/config/.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from experiments.models.shape import Shape
from experiments.values import at, divisors, is_whole
from experiments.verl_keys import (
    ACTOR,
    CRITIC_TOKENS,
    DEFAULT_CRITIC_TOKENS,
    REFERENCE,
    ROLLOUT,
    has_critic,
    has_reference,
    ranks_of,
)


def rollout_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return a problem if a rollout engine can't be split over GPUs as asked. `shape`: None if unknown."""
    rollout, ranks = config["actor_rollout_ref"]["rollout"], ranks_of(config)
    names = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    sizes = {f"{ROLLOUT}.{name}": int(rollout[name]) for name in names}
    key, tensor = next(iter(sizes.items()))
    if ranks % math.prod(sizes.values()):
        given = " x ".join(f"{name.rsplit('.', 1)[1]}={size}" for name, size in sizes.items())
        do = " ".join(f"{name}=1" for name, size in sizes.items() if size > 1)
        return [f"the GPUs of a rollout engine, {given}, must divide the {ranks} GPUs, but do not; set {do}"]
    if shape is None or tensor == 1:
        return []
    fits = [size for size in divisors(ranks) if splits_heads(shape, size)]
    if tensor in fits:
        return []
    most = max(size for size in fits if size <= tensor)
    return [f"{key} must {split_of(shape)}, but is {tensor}; set {key}={most}"]


def splits_heads(shape: Shape, size: int) -> bool:
    """Return whether a model's heads divide over `size` GPUs; key-value heads may be repeated."""
    kv = shape.num_key_value_heads
    return shape.num_attention_heads % size == 0 and (kv % size == 0 or size % kv == 0)


def split_of(shape: Shape) -> str:
    """Return, in words, the condition on a number of GPUs that are to share a model's heads."""
    return (
        f"divide the model's {shape.num_attention_heads} attention heads and divide its {shape.num_key_value_heads} "
        "key-value heads or be a multiple of them"
    )


def sequence_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return problems of Ulysses sequence parallelism, in the actor and the critic. `shape`: None if unknown."""
    found = []
    model, ranks = config["actor_rollout_ref"]["model"], ranks_of(config)
    for name, section in ((ACTOR, config["actor_rollout_ref"]["actor"]), ("critic", config["critic"])):
        key, size = f"{name}.ulysses_sequence_parallel_size", int(section["ulysses_sequence_parallel_size"])
        if size == 1:
            continue
        if ranks % size:
            found.append(f"{key} must divide the {ranks} GPUs, but is {size}; set {key}=1")
        elif name == ACTOR and not model["use_remove_padding"]:
            found.append(
                f"actor_rollout_ref.model.use_remove_padding must be true with {key}={size}, but is false; "
                "set actor_rollout_ref.model.use_remove_padding=true"
            )
        elif shape is not None and not splits_heads(shape, size):
            found.append(f"{key} must {split_of(shape)}, but is {size}; set {key}=1")
    return found


def sharding_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of the groups of ranks over which a model is sharded.

    Ranks left over would be in no group. With groups of one rank torch's FSDP, which is strategy=fsdp, shards nothing
    and averages no gradients between the groups (torch/distributed/fsdp/_runtime_utils.py, _reduce_grad_no_shard): each
    rank would train a policy of its own, and none would say so. FSDP2 averages them.
    """
    found, ranks = [], ranks_of(config)
    trained = {f"{ACTOR}.fsdp_config.fsdp_size": f"{ACTOR}.strategy"}
    trained |= {"critic.fsdp.fsdp_size": "critic.strategy"} if has_critic(config) else {}
    for key in (*trained, *([f"{REFERENCE}.fsdp_config.fsdp_size"] if has_reference(config) else [])):
        size = at(config, key)
        if not (is_whole(size, 1) and (size >= ranks or ranks % size == 0)) and size != -1:
            told = "null" if size is None else size
            found.append(f"{key} must divide the {ranks} GPUs, or be -1 for all of them, but is {told}; set {key}=-1")
        elif size == 1 < ranks and key in trained and at(config, trained[key]) == "fsdp":
            found.append(
                f"{key} must be at least 2, or -1 for all GPUs, with {trained[key]}=fsdp, but is 1: torch would "
                f"average no gradients between the {ranks} GPUs; set {key}=-1 or {trained[key]}=fsdp2"
            )
    return found


def token_problems(config: Mapping[str, Any]) -> list[str]:
    """Return problems of micro-batches that are cut by tokens.

    Each must hold at least one whole sequence. The actor's updates and log-probabilities must be cut in the same way.
    """
    actor_rollout_ref, critic = config["actor_rollout_ref"], config["critic"]
    actor, rollout, ref = (actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
    found = []
    if actor["use_dynamic_bsz"] != rollout["log_prob_use_dynamic_bsz"]:
        key, wanted = f"{ROLLOUT}.log_prob_use_dynamic_bsz", str(actor["use_dynamic_bsz"]).lower()
        found.append(
            f"{key} must be {ACTOR}.use_dynamic_bsz={wanted}, but is "
            f"{str(rollout['log_prob_use_dynamic_bsz']).lower()}; set {key}={wanted}"
        )
    longest = int(config["data"]["max_prompt_length"]) + int(config["data"]["max_response_length"])
    asked = [
        (f"{ACTOR}.ppo_max_token_len_per_gpu", actor, actor["use_dynamic_bsz"]),
        (f"{ROLLOUT}.log_prob_max_token_len_per_gpu", rollout, rollout["log_prob_use_dynamic_bsz"]),
    ]
    if has_reference(config):
        asked.append((f"{REFERENCE}.log_prob_max_token_len_per_gpu", ref, ref["log_prob_use_dynamic_bsz"]))
    if has_critic(config):
        asked += [
            ("critic.ppo_max_token_len_per_gpu", critic, critic["use_dynamic_bsz"]),
            ("critic.forward_max_token_len_per_gpu", critic, critic["use_dynamic_bsz"]),
            (CRITIC_TOKENS, critic, True),
        ]
    for key, section, dynamic in asked:
        tokens = section.get(key.rsplit(".", 1)[-1], DEFAULT_CRITIC_TOKENS)
        if not dynamic:
            continue
        parallel = int(section.get("ulysses_sequence_parallel_size", 1))
        if tokens * parallel < longest:
            least = -(-longest // parallel)
            found.append(
                f"{key} must be at least {least}, the longest prompt with the longest response, but is {tokens!r}; "
                f"set {key}={least}"
            )
    return found


def length_problems(config: Mapping[str, Any], positions: int | None) -> list[str]:
    """Return problems of how long a sequence may get, for the rollout engine and for the model.

    `positions`: the model's max_position_embeddings; None if unknown.
    """
    rollout, data = config["actor_rollout_ref"]["rollout"], config["data"]
    prompt, response = int(data["max_prompt_length"]), int(data["max_response_length"])
    longest, most, key, found = prompt + response, rollout["max_model_len"], f"{ROLLOUT}.max_model_len", []
    together = f"data.max_prompt_length + data.max_response_length = {longest}"
    if most is not None and (not is_whole(most, 1) or most < longest):
        return [f"{key} must be null or at least {together}, but is {most!r}; set {key}=null"]
    if positions is not None and longest > positions:
        do = f"data.max_response_length={positions - prompt}" if positions > prompt else "a model with more positions"
        found.append(
            f"data.max_prompt_length + data.max_response_length must be at most {positions}, the model's "
            f"max_position_embeddings, but is {prompt} + {response}; set {do}"
        )
    elif positions is not None and most is not None and most > positions:
        found.append(f"{key} must be at most {positions}, the model's positions, but is {most}; set {key}=null")
    if rollout["name"] != "vllm":
        return found
    tokens, key, least = rollout["max_num_batched_tokens"], f"{ROLLOUT}.max_num_batched_tokens", most or longest
    if tokens < rollout["max_num_seqs"]:
        found.append(
            f"{key} must be at least {ROLLOUT}.max_num_seqs={rollout['max_num_seqs']}, but is {tokens!r}; "
            f"set {ROLLOUT}.max_num_seqs={tokens}"
        )
    if tokens < least and not rollout["enable_chunked_prefill"]:
        found.append(
            f"{key} must be at least {least} without chunked prefill, but is {tokens!r}: veRL would raise it "
            f"silently; set {key}={least}"
        )
    return found
