"""What veRL and vLLM demand of how a model and its sequences are split over GPUs; veRL would say it minutes later.

Read in veRL 0.9.1: verl/workers/engine_workers.py (init_model), verl/utils/seqlen_balancing.py, verl/workers/config/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.memory import Shape

LEGACY = {  # keys that compose, and make veRL stop or do nothing
    "actor_rollout_ref.actor.ppo_micro_batch_size": "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size": (
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
    ),
    "actor_rollout_ref.ref.log_prob_micro_batch_size": "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    "critic.ppo_micro_batch_size": "critic.ppo_micro_batch_size_per_gpu",
}


def parallel_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return problems of tensor and sequence parallelism, dynamic batches and lengths; `shape`: None if unknown."""
    return [
        *_legacy_problems(config),
        *_rollout_problems(config, shape),
        *_sequence_problems(config, shape),
        *_dynamic_problems(config),
        *_length_problems(config),
    ]


def _legacy_problems(config: Mapping[str, Any]) -> list[str]:
    found = []
    for old, new in LEGACY.items():
        value: Any = config
        for part in old.split("."):
            value = value.get(part)
        if value is not None:
            found.append(
                f"{old} must be null, but is {value!r}: veRL refuses the old key, which counted all GPUs together; "
                f"set {new}, which counts one"
            )
    return found


def _ranks(config: Mapping[str, Any]) -> int:
    return int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"])


def _rollout_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    rollout, ranks = config["actor_rollout_ref"]["rollout"], _ranks(config)
    key = "actor_rollout_ref.rollout.tensor_model_parallel_size"
    tensor = rollout["tensor_model_parallel_size"]
    if not isinstance(tensor, int) or tensor < 1:
        return [f"{key} must be a whole number of at least 1, but is {tensor!r}; try 1"]
    engine = tensor * int(rollout["data_parallel_size"]) * int(rollout["pipeline_model_parallel_size"])
    if ranks % engine:
        return [
            f"the GPUs of a rollout engine (tensor x data x pipeline parallel) must divide the {ranks} GPUs, "
            f"but are {engine}; set {key}=1"
        ]
    if shape is None or tensor == 1:
        return []
    heads, kv = shape.num_attention_heads, shape.num_key_value_heads
    fits = [
        size
        for size in range(1, ranks + 1)
        if ranks % size == 0 and heads % size == 0 and (kv % size == 0 or size % kv == 0)
    ]
    if tensor in fits:
        return []
    return [
        f"{key} must divide the model's {heads} attention heads and divide its {kv} key-value heads or be a multiple "
        f"of them, but is {tensor}; set {key}={max(size for size in fits if size <= tensor)}"
    ]


def _sequence_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    found = []
    actor_rollout_ref = config["actor_rollout_ref"]
    sections = {"actor_rollout_ref.actor": actor_rollout_ref["actor"], "critic": config["critic"]}
    for name, section in sections.items():
        size = section["ulysses_sequence_parallel_size"]
        key = f"{name}.ulysses_sequence_parallel_size"
        if not isinstance(size, int) or size < 1:
            found.append(f"{key} must be a whole number of at least 1, but is {size!r}; try 1")
        elif size > 1 and _ranks(config) % size:
            found.append(f"{key} must divide the {_ranks(config)} GPUs, but is {size}; set {key}=1")
        elif size > 1 and name != "critic" and not actor_rollout_ref["model"]["use_remove_padding"]:
            found.append(
                f"actor_rollout_ref.model.use_remove_padding must be true with {key}={size}, but is false; "
                "set actor_rollout_ref.model.use_remove_padding=true"
            )
        elif size > 1 and shape is not None and shape.num_attention_heads % size:
            found.append(
                f"{key} must divide the model's {shape.num_attention_heads} attention heads, but is {size}; set {key}=1"
            )
    return found


def _dynamic_problems(config: Mapping[str, Any]) -> list[str]:
    """A micro-batch cut by tokens must hold one sequence at least; the actor and its log-probs are cut alike."""
    actor_rollout_ref, critic = config["actor_rollout_ref"], config["critic"]
    actor, rollout, ref = (actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
    found = []
    if bool(actor["use_dynamic_bsz"]) != bool(rollout["log_prob_use_dynamic_bsz"]):
        key, wanted = "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz", str(actor["use_dynamic_bsz"]).lower()
        found.append(
            f"{key} must be actor_rollout_ref.actor.use_dynamic_bsz={wanted}, but is "
            f"{str(rollout['log_prob_use_dynamic_bsz']).lower()}; set {key}={wanted}"
        )
    longest = int(config["data"]["max_prompt_length"]) + int(config["data"]["max_response_length"])
    asked = [
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", actor, "use_dynamic_bsz"),
        ("actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu", rollout, "log_prob_use_dynamic_bsz"),
    ]
    if actor["use_kl_loss"] or config["algorithm"]["use_kl_in_reward"]:
        asked.append(("actor_rollout_ref.ref.log_prob_max_token_len_per_gpu", ref, "log_prob_use_dynamic_bsz"))
    if config["algorithm"]["adv_estimator"] == "gae":
        asked += [
            (f"critic.{name}", critic, "use_dynamic_bsz")
            for name in ("ppo_max_token_len_per_gpu", "forward_max_token_len_per_gpu")
        ]
    for key, section, dynamic in asked:
        tokens = section[key.rsplit(".", 1)[-1]]
        if not section[dynamic]:
            continue
        parallel = int(section.get("ulysses_sequence_parallel_size") or 1)
        if not isinstance(tokens, int) or tokens * parallel < longest:
            least = -(-longest // parallel)
            found.append(
                f"{key} must be at least {least}, a prompt and a response of the longest, but is {tokens!r}; "
                f"set {key}={least}"
            )
    return found


def _length_problems(config: Mapping[str, Any]) -> list[str]:
    rollout, data = config["actor_rollout_ref"]["rollout"], config["data"]
    longest = int(data["max_prompt_length"]) + int(data["max_response_length"])
    most = rollout["max_model_len"]
    key = "actor_rollout_ref.rollout.max_model_len"
    if most is not None and (not isinstance(most, int) or most < longest):
        return [
            f"{key} must be null or at least data.max_prompt_length + data.max_response_length = {longest}, but is "
            f"{most!r}; set {key}=null"
        ]
    tokens, key = rollout["max_num_batched_tokens"], "actor_rollout_ref.rollout.max_num_batched_tokens"
    if rollout["name"] == "vllm" and not rollout["enable_chunked_prefill"] and tokens < (most or longest):
        return [
            f"{key} must be at least {most or longest} without chunked prefill, but is {tokens!r}; "
            f"set {key}={most or longest}"
        ]
    return []
