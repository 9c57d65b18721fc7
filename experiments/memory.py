"""What a step needs of a GPU's memory, phase by phase: an estimate from shapes alone, which needs no GPU and no torch.

Assumptions: veRL's FSDP engines in mixed precision (weights, gradients and Adam's moments in fp32, sharded over all
ranks; a layer is gathered in bf16), vLLM in bf16, every response as long as it may be. Not counted: the allocator's
fragments, for which FITS leaves room. No GPU has confirmed the constants yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30
FITS, TIGHT = 0.93, 1.0  # of a GPU's memory: above TIGHT a phase does not fit
RUNTIME = 4.0  # GiB: contexts of two processes, NCCL's buffers, what a sleeping vLLM keeps
ENGINE = 3.0  # GiB of vLLM's share that hold neither weights nor KV cache: CUDA graphs, activations

# Bytes per token and entry of the vocabulary.
LOGITS_INFER = 2 + 4  # bf16, and a copy in fp32 for the log-probability
LOGITS_ENTROPY = 8  # softmax and its product in fp32, unless the entropy is computed in chunks
LOGITS_UPDATE = 2 + 4 + 4  # and the gradient


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, by the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False
    head_dim: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Shape | None:
        """Return the shape that a config.json or model.shape states; None where it states none."""
        values = dict(values or {})
        if not values.get("num_key_value_heads") and values.get("num_attention_heads"):
            values["num_key_value_heads"] = values["num_attention_heads"]
        sizes = {name: values.get(name) for name in cls.__dataclass_fields__}
        needed = [size for name, size in sizes.items() if name not in ("tie_word_embeddings", "head_dim")]
        if not all(isinstance(size, int) and size > 0 for size in needed):
            return None
        return cls(**{name: size for name, size in sizes.items() if size is not None})  # type: ignore[arg-type]

    @property
    def head(self) -> int:
        """Return the size of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layer_parameters(self) -> int:
        """Return the numbers in one layer of the Qwen2 architecture: biases for q, k and v, three MLP matrices."""
        q, kv = self.num_attention_heads * self.head, self.num_key_value_heads * self.head
        attention = self.hidden_size * (2 * q + 2 * kv) + q + 2 * kv
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """Return the numbers in the whole model, tied embeddings counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * self.layer_parameters + self.hidden_size

    @property
    def kv_bytes(self) -> int:
        """Return the bytes of KV cache that one token takes in bf16."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head


@dataclass(frozen=True)
class Setup:
    """All that decides how much memory a GPU needs."""

    shape: Shape
    ranks: int
    memory: float
    """GiB of a GPU."""
    critic: bool
    reference: bool
    param_offload: bool
    optimizer_offload: bool
    ref_offload: bool
    update_tokens: int
    """Tokens of a micro-batch at most."""
    infer_tokens: int
    utilization: float
    """vLLM's share of the memory."""
    tensor_parallel: int = 1
    sequence: int = 1280
    """Tokens of prompt and response at most."""
    samples: int = 1
    """Responses that a rollout engine generates in a step."""
    chunked_entropy: bool = True
    checkpointing: bool = True

    def shard(self, bytes_per_parameter: int) -> float:
        """Return the GiB that a rank's shard of the model takes."""
        return self.shape.parameters * bytes_per_parameter / self.ranks / GIB

    def resident(self) -> dict[str, float]:
        """Return what stays on a GPU in all phases."""
        trained = 2 if self.critic else 1
        return {
            "weights": 0.0 if self.param_offload else trained * self.shard(4),
            "optimizer": 0.0 if self.optimizer_offload else trained * self.shard(8),
            "reference": 0.0 if self.ref_offload or not self.reference else self.shard(4),
        }

    @property
    def kv_room(self) -> float:
        """Return the GiB of vLLM's share that are left for the KV cache."""
        return self.utilization * self.memory - self.shape.parameters * 2 / self.tensor_parallel / GIB - ENGINE

    @property
    def concurrent(self) -> int:
        """Return how many whole sequences the KV cache holds at once."""
        split = min(self.tensor_parallel, self.shape.num_key_value_heads)
        return max(0, math.floor(self.kv_room * GIB * split / (self.shape.kv_bytes * self.sequence)))


@dataclass(frozen=True)
class Phase:
    """A phase of a step, and the GiB that each part takes."""

    name: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """Return the GiB of all parts."""
        return sum(self.parts.values())


def phases(setup: Setup) -> list[Phase]:
    """Return the phases of a step with what each needs on every GPU."""
    shape, resident = setup.shape, setup.resident()
    gathered = 2 * 2 * max(shape.layer_parameters, shape.vocab_size * shape.hidden_size) / GIB  # one, and the next
    infer_logits = LOGITS_INFER + (0 if setup.chunked_entropy else LOGITS_ENTROPY)
    one_layer = 2 * (8 * shape.hidden_size + 4 * shape.intermediate_size)
    saved = shape.num_hidden_layers * (2 * shape.hidden_size if setup.checkpointing else one_layer)
    # A phase loads what it needs of the offloaded; the other model's share stays where it was.
    infer = {**resident, "weights": max(resident["weights"], setup.shard(4))}
    infer["reference"] = max(resident["reference"], setup.shard(4) if setup.reference else 0.0)
    update = {**resident, "weights": max(resident["weights"], setup.shard(4))}
    update["optimizer"] = max(resident["optimizer"], setup.shard(8))
    return [
        Phase("rollout", {**resident, "vLLM": setup.utilization * setup.memory, "runtime": RUNTIME}),
        Phase(
            "log-prob",
            {
                **infer,
                "gathered layer": gathered,
                "activations": setup.infer_tokens * one_layer / GIB,
                "logits": setup.infer_tokens * shape.vocab_size * infer_logits / GIB,
                "runtime": RUNTIME,
            },
        ),
        Phase(
            "update",
            {
                **update,
                "gradients": setup.shard(4),
                "gathered layer": gathered,
                "activations": setup.update_tokens * (saved + one_layer) / GIB,
                "logits": setup.update_tokens * shape.vocab_size * LOGITS_UPDATE / GIB,
                "runtime": RUNTIME,
            },
        ),
    ]


def verdict(phase: Phase, memory: float) -> str:
    """Return "fits", "tight" or "does not fit" for a phase on GPUs of so many GiB."""
    share = phase.total / memory
    return "fits" if share <= FITS else "tight" if share <= TIGHT else "does not fit"


def in_words(setup: Setup) -> str:
    """Return what each phase needs, and whether that fits, on one line."""
    needs = ", ".join(f"{phase.name} {phase.total:.0f} {verdict(phase, setup.memory)}" for phase in phases(setup))
    return f"memory of a GPU, of {setup.memory:g} GiB (estimated, all responses at their longest): {needs}"


def setup_of(config: Mapping[str, Any], shape: Shape | None) -> Setup | None:
    """Return what a resolved config asks of a GPU; None without vLLM, or where the shape or the memory is unknown."""
    memory = config["hardware"].get("memory_gib")
    if (
        shape is None
        or not isinstance(memory, (int, float))
        or config["actor_rollout_ref"]["rollout"]["name"] != "vllm"
    ):
        return None
    actor_rollout_ref, data, algorithm = config["actor_rollout_ref"], config["data"], config["algorithm"]
    actor, rollout, ref = (actor_rollout_ref[name] for name in ("actor", "rollout", "ref"))
    ranks = int(config["trainer"]["nnodes"]) * int(config["trainer"]["n_gpus_per_node"])
    sequence = int(data["max_prompt_length"]) + int(data["max_response_length"])
    dynamic = bool(actor["use_dynamic_bsz"])
    update = actor["ppo_max_token_len_per_gpu"] if dynamic else (actor["ppo_micro_batch_size_per_gpu"] or 1) * sequence
    infer = (
        rollout["log_prob_max_token_len_per_gpu"]
        if dynamic
        else (rollout["log_prob_micro_batch_size_per_gpu"] or 1) * sequence
    )
    tensor = int(rollout["tensor_model_parallel_size"])
    return Setup(
        shape=shape,
        ranks=ranks,
        memory=float(memory),
        critic=algorithm["adv_estimator"] == "gae",
        reference=bool(actor["use_kl_loss"] or algorithm["use_kl_in_reward"]),
        param_offload=bool(actor["fsdp_config"]["param_offload"]),
        optimizer_offload=bool(actor["fsdp_config"]["optimizer_offload"]),
        ref_offload=bool(ref["fsdp_config"]["param_offload"]),
        update_tokens=int(update),
        infer_tokens=int(infer),
        utilization=float(rollout["gpu_memory_utilization"]),
        tensor_parallel=tensor,
        sequence=sequence,
        samples=int(data["train_batch_size"]) * int(config["rollout"]["n"]) * tensor // ranks,
        chunked_entropy=bool(actor["entropy_from_logits_with_chunking"]),
        checkpointing=bool(actor_rollout_ref["model"]["enable_gradient_checkpointing"]),
    )


def memory_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return a problem for each phase that does not fit, with what to change; none where too little is known."""
    setup = setup_of(config, shape)
    if setup is None:
        return []
    found = []
    if setup.concurrent < 1:
        found.append(
            f"vLLM's share of a GPU must hold the weights and one whole response, but {setup.utilization:g} of "
            f"{setup.memory:g} GiB leaves {setup.kv_room:.1f} GiB for the KV cache; raise "
            "actor_rollout_ref.rollout.gpu_memory_utilization or tensor_model_parallel_size"
        )
    for phase in phases(setup):
        if verdict(phase, setup.memory) == "does not fit":
            most = sorted(phase.parts, key=lambda name: -phase.parts[name])[:3]
            parts = ", ".join(f"{name} {phase.parts[name]:.0f}" for name in most)
            found.append(
                f"the {phase.name} phase must fit the {setup.memory:g} GiB of a GPU, but needs about {phase.total:.0f} "
                f"({parts}); {remedy(setup, phase)} (hardware.memory_gib=null skips this estimate)"
            )
    return found


def remedy(setup: Setup, phase: Phase) -> str:
    """Return what to change so that a phase needs less."""
    logits, states = phase.parts.get("logits", 0.0), sum(setup.resident().values())
    if phase.name == "rollout":
        least = max(0.05, math.floor((FITS - (states + RUNTIME) / setup.memory) * 20) / 20)
        if least >= 0.3:
            return f"set actor_rollout_ref.rollout.gpu_memory_utilization={least:g}"
    elif logits > 4 and logits > phase.total - TIGHT * setup.memory:
        return (
            "set smaller micro-batches: ppo_max_token_len_per_gpu, or ..._micro_batch_size_per_gpu, of actor and critic"
        )
    if setup.reference and not setup.ref_offload:
        return "set actor_rollout_ref.ref.fsdp_config.param_offload=true"
    if not setup.optimizer_offload:
        roles = (
            "actor_rollout_ref.actor.fsdp_config and critic.fsdp"
            if setup.critic
            else "actor_rollout_ref.actor.fsdp_config"
        )
        return f"set optimizer_offload=true in {roles}"
    if not setup.param_offload:
        return "set param_offload=true of the actor (and the critic)"
    return "take more GPUs (hardware=...x4, ...x8) or a smaller model"
