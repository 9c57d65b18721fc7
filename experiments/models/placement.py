"""Choose what stays on the GPUs between phases, and the size of the micro-batches, by the estimate of memory.py.

The article's settings offload the reference model and give vLLM 40 % of the memory, whatever the model and the GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from experiments.models.folder import shape_of
from experiments.models.memory import FITS, RUNTIME, Setup, phases
from experiments.models.setup import fixed_setup

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


def placement_of(config: Mapping[str, Any]) -> Way:
    """Return the fastest way that fits, else the one that needs the least memory (preflight says what does not fit).

    If the model's shape is not known, or a size is invalid, nothing is offloaded; preflight reports the size.
    """
    fixed = fixed_setup(config, shape_of(config))
    return Way(False, False, True, WORK[0][1], 0.5, FEWEST) if fixed is None else placement(fixed)


@lru_cache(maxsize=64)  # a config asks once for each field of Way
def placement(fixed: Setup) -> Way:
    """Return the same for what `fixed_setup` says about a config."""
    if fixed.copy_bytes:
        fixed = replace(fixed, samples=min(fixed.samples, FEWEST))
    for param, optimizer in OFFLOADS:
        for checkpointing, tokens in WORK:
            setup = replace(
                fixed,
                param_offload=param,
                optimizer_offload=optimizer,
                checkpointing=checkpointing,
                critic_checkpointing=checkpointing,
                update_tokens=fixed.update_tokens or tokens,
                infer_tokens=fixed.infer_tokens or tokens,
                critic_param_offload=param,
                critic_optimizer_offload=optimizer,
                critic_tokens=tokens,
            )
            for share in _shares(setup):
                if _fits(replace(setup, utilization=share)):
                    return Way(param, optimizer, checkpointing, tokens, share, _sequences(setup, share))
    return Way(*OFFLOADS[-1], *WORK[-1], LEAST_SHARE, FEWEST)


def _shares(setup: Setup) -> list[float]:
    """Return the shares of the memory that vLLM may get beside what stays, in steps of 0.05, the largest first.

    Only the largest, if vLLM gives its share back while the models train: a smaller one would win nothing.
    """
    if setup.copy_bytes:
        return [LEAST_SHARE]
    left = FITS - (sum(setup.resident().values()) + RUNTIME) / setup.memory
    most, least = math.floor(min(MOST_SHARE, left) * 20), math.ceil(LEAST_SHARE * 20)
    shares = [step / 20 for step in range(most, least - 1, -1)]
    return shares[:1] if setup.frees_cache else shares


def _fits(setup: Setup) -> bool:
    """Return whether each phase fits; while it trains without checkpointing, a GPU must be roomier."""
    training = FITS if setup.checkpointing else ROOMY
    return all(phase.total <= (FITS if phase.name == "rollout" else training) * setup.memory for phase in phases(setup))


def _sequences(setup: Setup, share: float) -> int:
    """Return how many sequences vLLM generates at once with this share of the memory."""
    if setup.copy_bytes:
        return FEWEST
    room = replace(setup, utilization=share).concurrent
    return max(FEWEST, min(MOST, room // STEP * STEP))
