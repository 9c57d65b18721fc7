"""Estimate the GPU memory that a step needs, phase by phase, from shapes alone: it needs no GPU and no torch.

Assumptions: veRL's FSDP engines in mixed precision (weights, gradients and Adam's moments in fp32, sharded over all
ranks or groups of fsdp_size; a layer is gathered in bf16), vLLM in bf16, every response as long as it may be. The
transformers rollout (rollout.name=hf) keeps a whole copy of the weights and generates all its responses at once. Not
counted: the allocator's fragments, for which FITS leaves room. No GPU has confirmed the constants yet. Log-probs are
computed by our code (verl_plugin/training/log_probs.py), so their memory is the same with flash-attn and without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.models.shape import Shape

GIB = 2**30
FITS, TIGHT = 0.93, 1.0  # shares of a GPU's memory: between them a phase is tight, above TIGHT it does not fit
RUNTIME = 4.0  # GiB: the contexts of two processes, NCCL's buffers, what a sleeping vLLM keeps
ENGINE = 3.0  # GiB of vLLM's share for what is neither weights nor KV cache: CUDA graphs, activations

# Bytes per token and entry of the vocabulary: bf16. A gradient takes the place of the logits, and entropy needs no more
# (verl_plugin/training/log_probs.py). Without use_remove_padding the rows' tokens are picked out of the padded logits,
# which are a copy and, in the update, a gradient of the padded ones (training/engine.py).
LOGITS, PICKED, PICKED_GRADIENT = 2, 2, 2
LOGITS_CHUNK = 1.0  # GiB: log_probs.CHUNK logits in fp32, four times
SAMPLED_LOGITS = 2 + 4 + 4  # the transformers rollout: bf16, divided by the temperature in fp32, and its probabilities
# What a layer keeps for its backward pass, in bf16 numbers per token: so many times the hidden and the intermediate
# size. Counted in transformers' Qwen2 layer (tests/experiments/models/test_saved_tensors.py).
KEPT_HIDDEN, KEPT_INTERMEDIATE = 12, 4
BUCKET = 2.0  # GiB: veRL's rollout.checkpoint_engine.update_weights_bucket_megabytes, on both sides of a weight sync


@dataclass(frozen=True)
class Setup:
    """All that decides how much memory a GPU needs; models/setup.py reads it from a config."""

    shape: Shape
    ranks: int
    memory: float
    """GiB of a GPU."""
    critic: bool
    reference: bool = False
    param_offload: bool = False
    optimizer_offload: bool = False
    update_tokens: int = 0
    """The most tokens of a micro-batch."""
    infer_tokens: int = 0
    utilization: float = 0.0
    """vLLM's share of the memory; 0 with another engine."""
    critic_param_offload: bool = False
    critic_optimizer_offload: bool = False
    critic_tokens: int = 0
    fsdp_size: int = -1
    """Over how many ranks the policy is sharded; -1: all, here and below."""
    critic_fsdp_size: int = -1
    tensor_parallel: int = 1
    sequence: int = 1280
    """The most tokens of prompt and response together."""
    samples: int = 1
    """Responses that a rollout engine generates in a step."""
    padded: bool = False
    """Whether the models compute on padding too: use_remove_padding=false."""
    fused: bool = False
    """Whether log-probs come out of the model without logits: use_fused_kernels=true."""
    checkpointing: bool = True
    critic_checkpointing: bool = True
    frees_cache: bool = True
    """Whether vLLM gives its share back while the models train."""
    copy_bytes: int = 0
    """Bytes per parameter of the transformers rollout's own copy of the weights; 0 with vLLM."""

    def shard(self, bytes_per_parameter: int, critic: bool = False) -> float:
        """Return the GiB that a rank's shard of the policy, or of the critic, takes."""
        size = self.critic_fsdp_size if critic else self.fsdp_size
        return self.shape.parameters * bytes_per_parameter / (self.ranks if size < 1 else min(size, self.ranks)) / GIB

    def resident(self, actor: bool = False, critic: bool = False) -> dict[str, float]:
        """Return the GiB of each part that is on a GPU: what always stays, and the named models' offloaded parts.

        A model is named in its own phase, for which its offloaded parts are loaded. The reference model never stays:
        veRL keeps its weights on the CPU and loads a layer at a time, whatever ref.fsdp_config.param_offload says
        (verl/workers/engine/fsdp/transformer_impl.py, forward_only).
        """
        held = {  # (bytes per parameter, whether the policy's are there, whether the critic's are)
            "weights": (4, actor or not self.param_offload, critic or not self.critic_param_offload),
            "optimizer": (8, actor or not self.optimizer_offload, critic or not self.critic_optimizer_offload),
        }
        sizes = {
            name: policy * self.shard(size) + (self.critic and values) * self.shard(size, critic=True)
            for name, (size, policy, values) in held.items()
        }
        return sizes | self.engine()

    def engine(self) -> dict[str, float]:
        """Return the GiB that a rollout engine keeps while the models train, by part."""
        if self.copy_bytes:
            return {"rollout's copy": self.shape.parameters * self.copy_bytes / GIB}
        return {} if self.frees_cache else {"vLLM": self.utilization * self.memory}

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
    """Return the phases of a step with what each needs on every GPU.

    Where several models take turns in a phase, the one that needs most counts.
    """
    of_critic = [setup.critic_tokens] if setup.critic else []
    log_probs = [_log_prob(setup), *(_values(setup, tokens) for tokens in of_critic)]
    updates = [_update(setup), *(_critic_update(setup, tokens) for tokens in of_critic)]
    return [
        _rollout(setup),
        *([] if setup.copy_bytes else [_weight_sync(setup)]),
        *(
            max((Phase(name, {**parts, "runtime": RUNTIME}) for parts in choices), key=lambda phase: phase.total)
            for name, choices in (("log-prob", log_probs), ("update", updates))
        ),
    ]


def _rollout(setup: Setup) -> Phase:
    shape, parts = setup.shape, setup.resident()
    if setup.copy_bytes:
        wide = setup.copy_bytes / 2  # kv_bytes are bf16's
        parts["KV cache"] = setup.samples * setup.sequence * shape.kv_bytes * wide / GIB
        parts["logits"] = setup.samples * shape.vocab_size * SAMPLED_LOGITS / GIB
    else:
        parts["vLLM"] = setup.utilization * setup.memory
    return Phase("rollout", {**parts, "runtime": RUNTIME})


def _weight_sync(setup: Setup) -> Phase:
    """Return what sending the weights to vLLM needs, which has its own in bf16 and no KV cache yet.

    FSDP's state dict is a copy of the shards in fp32 (transformer_impl.py, get_per_tensor_param, and torch's
    _state_dict_utils.py). Where there are several, FSDP gathers a layer at a time for it, or all that is in none, and
    copies a tensor of that before it cuts it. FSDP2 needs less.
    """
    shape = setup.shape
    embedding = shape.vocab_size * shape.hidden_size
    outside = embedding * (1 if shape.tie_word_embeddings else 2)
    whole = 0 if setup.ranks == 1 else max(outside + embedding, 2 * shape.layer_parameters)
    parts = {
        **setup.resident(actor=True),
        "optimizer": setup.resident()["optimizer"],
        "state dict": setup.shard(4),
        "gathered layer": 4 * whole / GIB,
        "vLLM's weights": 2 * shape.parameters / setup.tensor_parallel / GIB,
        "buckets": 2 * BUCKET,
    }
    if not setup.frees_cache:
        parts |= {"vLLM": setup.utilization * setup.memory, "vLLM's weights": 0.0}
    return Phase("weight sync", {**parts, "runtime": RUNTIME})


def _layers(setup: Setup, checkpointing: bool) -> tuple[float, float, float]:
    """Return (GiB of the gathered layer and the next, bytes per token of one layer's activations, and of all saved)."""
    shape = setup.shape
    gathered = 2 * 2 * max(shape.layer_parameters, shape.vocab_size * shape.hidden_size) / GIB
    one_layer = 2 * (KEPT_HIDDEN * shape.hidden_size + KEPT_INTERMEDIATE * shape.intermediate_size)
    return gathered, one_layer, shape.num_hidden_layers * (2 * shape.hidden_size if checkpointing else one_layer)


def _logits(setup: Setup, tokens: int, update: bool) -> float:
    """Return the GiB of the logits of so many tokens, with what is computed from them."""
    if setup.fused:
        return 0.0
    size = LOGITS + (PICKED + update * PICKED_GRADIENT if setup.padded else 0)
    return tokens * setup.shape.vocab_size * size / GIB + LOGITS_CHUNK


def _log_prob(setup: Setup) -> dict[str, float]:
    gathered, one_layer, _ = _layers(setup, True)
    return {
        # The optimizer is loaded for the update alone.
        **setup.resident(actor=True),
        "optimizer": setup.resident()["optimizer"],
        "gathered layer": gathered,
        "activations": setup.infer_tokens * one_layer / GIB,
        "logits": _logits(setup, setup.infer_tokens, update=False),
    }


def _values(setup: Setup, tokens: int) -> dict[str, float]:
    gathered, one_layer, _ = _layers(setup, True)
    loaded = {**setup.resident(critic=True), "optimizer": setup.resident()["optimizer"]}
    return {**loaded, "gathered layer": gathered, "activations": tokens * one_layer / GIB}


def _update(setup: Setup) -> dict[str, float]:
    gathered, one_layer, saved = _layers(setup, setup.checkpointing)
    return {
        **setup.resident(actor=True),
        "gradients": setup.shard(4),
        "gathered layer": gathered,
        "activations": setup.update_tokens * (saved + one_layer) / GIB,
        "logits": _logits(setup, setup.update_tokens, update=True),
    }


def _critic_update(setup: Setup, tokens: int) -> dict[str, float]:
    """Return the same for the critic, which has one value per token in place of logits."""
    gathered, one_layer, saved = _layers(setup, setup.critic_checkpointing)
    return {
        **setup.resident(critic=True),
        "gradients": setup.shard(4, critic=True),
        "gathered layer": gathered,
        "critic's activations": tokens * (saved + one_layer) / GIB,
    }


def verdict(phase: Phase, memory: float) -> str:
    """Return "fits", "tight" or "does not fit" for a phase on GPUs of so many GiB."""
    share = phase.total / memory
    return "fits" if share <= FITS else "tight" if share <= TIGHT else "does not fit"


def in_words(setup: Setup) -> str:
    """Return what each phase needs, and whether that fits, on one line."""
    needs = ", ".join(f"{phase.name} {phase.total:.0f} {verdict(phase, setup.memory)}" for phase in phases(setup))
    return f"memory of a GPU, of {setup.memory:g} GiB (estimated, all responses at their longest): {needs}"
