"""Choose what stays on the GPUs between phases, and the size of the micro-batches, by the estimate of memory.py.

The article's settings offload the reference model and give vLLM 40 % of the memory, whatever the model and the GPUs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from experiments.models.memory import FITS, RUNTIME, Setup, phases
from experiments.models.shape import Shape
from experiments.values import is_number, is_whole

# (param, optimizer, ref), the fastest first: offload nothing, the reference model, the optimizer too, everything.
OFFLOADS = ((False, False, False), (False, False, True), (False, True, True), (True, True, True))
TOKENS = (16384, 8192, 4096)  # of a micro-batch; 8192 already keep a GPU busy
LEAST_SHARE, MOST_SHARE = 0.4, 0.8  # of the memory for vLLM: never less than the article's


def placement(
    parameters: Any, shape: Any, nodes: Any, gpus_per_node: Any, memory_gib: Any, estimator: str
) -> dict[str, Any]:
    """Return the fastest way that fits, else the one that needs the least memory (preflight says what does not fit).

    Keys: param_offload, optimizer_offload, ref_offload, max_token_len (of a micro-batch), gpu_memory_utilization. If
    the model's shape is not stated (null), or a size is not a number, nothing is offloaded; preflight reports the size.
    """
    sizes = Shape.of(shape)
    numbers = is_whole(nodes, 1) and is_whole(gpus_per_node, 1) and is_number(memory_gib) and memory_gib > 0
    if sizes is None or not numbers or not parameters:
        return _chosen((False, False, False), TOKENS[0], 0.5)
    base = Setup(
        shape=sizes,
        ranks=int(nodes * gpus_per_node),
        memory=float(memory_gib),
        critic=estimator == "gae",
        reference=True,
        param_offload=False,
        optimizer_offload=False,
        ref_offload=False,
        update_tokens=0,
        infer_tokens=0,
        utilization=0.0,
    )
    for offload in OFFLOADS:
        param, optimizer, ref = offload
        for tokens in TOKENS:
            setup = replace(
                base,
                param_offload=param,
                optimizer_offload=optimizer,
                ref_offload=ref,
                update_tokens=tokens,
                infer_tokens=tokens,
                critic_param_offload=param,
                critic_optimizer_offload=optimizer,
                critic_tokens=tokens,
            )
            share = _share(setup)
            training = [phase.total for phase in phases(setup) if phase.name != "rollout"]
            if share >= LEAST_SHARE and max(training) <= FITS * setup.memory:
                return _chosen(offload, tokens, share)
    return _chosen(OFFLOADS[-1], TOKENS[-1], LEAST_SHARE)


def _share(setup: Setup) -> float:
    """Return the share of the memory that is left for vLLM beside what stays, in steps of 0.05."""
    left = FITS - (sum(setup.resident().values()) + RUNTIME) / setup.memory
    return min(MOST_SHARE, math.floor(left * 20) / 20)


def _chosen(offload: tuple[bool, bool, bool], tokens: int, share: float) -> dict[str, Any]:
    names = ("param_offload", "optimizer_offload", "ref_offload")
    return dict(zip(names, offload, strict=True)) | {"max_token_len": tokens, "gpu_memory_utilization": share}
