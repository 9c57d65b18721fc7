"""Choose what stays on the GPUs between phases, and the size of the micro-batches, by the estimate of memory.py.

The article's settings offload the reference model and give vLLM 40 % of the memory, whatever the model and the GPUs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from experiments.models.memory import FITS, RUNTIME, Setup, phases
from experiments.models.shape import Shape
from experiments.values import is_number, is_whole

OFFLOADS = ((False, False), (False, True), (True, True))  # (param, optimizer), the fastest first
# (gradient checkpointing, tokens of a micro-batch), the fastest first: without checkpointing an update computes a
# quarter less; 8192 tokens already keep a GPU busy.
WORK = ((False, 16384), (False, 8192), (True, 16384), (True, 8192), (True, 4096))
LEAST_SHARE, MOST_SHARE = 0.4, 0.8  # of the memory for vLLM: never less than the article's
# Without checkpointing a GPU is full of activations, whose sizes differ from micro-batch to micro-batch: fragments.
ROOMY = 0.85
# Sequences that vLLM generates at once: as many as its KV cache holds, in steps of 64; veRL's default is the least.
# With more than 1,024 the sampler's logits would take GiB (a row of 151,936 in fp32 is 0.6 MB, and it is copied).
FEWEST, MOST, STEP = 256, 1024, 64


@dataclass(frozen=True)
class Way:
    """What stays on the GPUs, and how the work is cut up. The presets' ${placement:...} read these fields."""

    param_offload: bool
    optimizer_offload: bool
    checkpointing: bool
    max_token_len: int
    """Of a micro-batch, in tokens."""
    gpu_memory_utilization: float
    max_num_seqs: int


def placement(
    parameters: Any, shape: Any, nodes: Any, gpus_per_node: Any, memory_gib: Any, estimator: str, sequence: Any
) -> Way:
    """Return the fastest way that fits, else the one that needs the least memory (preflight says what does not fit).

    `sequence`: the most tokens of prompt and response together. If the model's shape is not stated (null), or a size is
    not a number, nothing is offloaded; preflight reports the size.
    """
    sizes = Shape.of(shape)
    numbers = is_whole(nodes, 1) and is_whole(gpus_per_node, 1) and is_number(memory_gib) and memory_gib > 0
    if sizes is None or not numbers or not is_whole(sequence, 1) or not parameters:
        return Way(False, False, True, WORK[0][1], 0.5, FEWEST)
    base = Setup(
        shape=sizes,
        ranks=int(nodes * gpus_per_node),
        memory=float(memory_gib),
        critic=estimator == "gae",
        reference=True,
        param_offload=False,
        optimizer_offload=False,
        update_tokens=0,
        infer_tokens=0,
        utilization=0.0,
        sequence=sequence,
    )
    for param, optimizer in OFFLOADS:
        for checkpointing, tokens in WORK:
            setup = replace(
                base,
                param_offload=param,
                optimizer_offload=optimizer,
                checkpointing=checkpointing,
                critic_checkpointing=checkpointing,
                update_tokens=tokens,
                infer_tokens=tokens,
                critic_param_offload=param,
                critic_optimizer_offload=optimizer,
                critic_tokens=tokens,
            )
            share = _share(setup)
            training = [phase.total for phase in phases(setup) if phase.name != "rollout"]
            if share >= LEAST_SHARE and max(training) <= (FITS if checkpointing else ROOMY) * setup.memory:
                return Way(param, optimizer, checkpointing, tokens, share, _sequences(setup, share))
    return Way(*OFFLOADS[-1], *WORK[-1], LEAST_SHARE, FEWEST)


def _share(setup: Setup) -> float:
    """Return the share of the memory that is left for vLLM beside what stays, in steps of 0.05."""
    left = FITS - (sum(setup.resident().values()) + RUNTIME) / setup.memory
    return min(MOST_SHARE, math.floor(left * 20) / 20)


def _sequences(setup: Setup, share: float) -> int:
    """Return how many sequences vLLM generates at once with this share of the memory."""
    room = replace(setup, utilization=share).concurrent
    return max(FEWEST, min(MOST, room // STEP * STEP))
