"""Find the phases of a step that do not fit a GPU, by models/memory.py, and the settings with which they would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from experiments.models.memory import Phase, Setup, phases, setup_of, verdict
from experiments.models.shape import Shape
from experiments.values import at, divisors
from experiments.verl_keys import ACTOR, CRITIC_TOKENS, REFERENCE, ROLLOUT

SHARE, TENSOR, GPUS = (
    f"{ROLLOUT}.gpu_memory_utilization",
    f"{ROLLOUT}.tensor_model_parallel_size",
    "hardware.gpus_per_node",
)
SHARES = [step / 20 for step in range(1, 20)]
LEAST_SHARE = 0.3  # of the memory for vLLM: offload before giving it less
MOST_TIMES = 64  # if no setting helps, up to so many times the GPUs are tried

Move = tuple[str, dict[str, Any]]  # overrides, and the fields of a Setup that they change


def memory_problems(config: Mapping[str, Any], shape: Shape | None) -> list[str]:
    """Return a problem for each phase that does not fit, with what to change; none if too little is known."""
    setup = setup_of(config, shape)
    if setup is None:
        return []
    found = []
    if setup.utilization and setup.concurrent < 1:
        found.append(
            f"{SHARE} must leave room for the weights and the KV cache of one whole response, but "
            f"{setup.utilization:g} of {setup.memory:g} GiB leaves {setup.kv_room:.1f} GiB for the cache; "
            f"{_more_room(setup)}"
        )
    for phase in phases(setup):
        if verdict(phase, setup.memory) == "does not fit":
            most = sorted(phase.parts, key=lambda name: -phase.parts[name])[:3]
            parts = ", ".join(f"{name} {phase.parts[name]:.0f}" for name in most)
            found.append(
                f"the {phase.name} phase must fit hardware.memory_gib={setup.memory:g}, but needs about "
                f"{phase.total:.0f} GiB ({parts}); {remedy(setup, phase, config)} "
                "(hardware.memory_gib=null skips this estimate)"
            )
    return found


def remedy(setup: Setup, phase: Phase, config: Mapping[str, Any]) -> str:
    """Return the fewest of the usual changes, in the order of what they cost, with which a phase fits."""
    made: list[Move] = []
    for move in _moves(setup, phase.name, config):
        made.append(move)
        if _fits(setup, phase.name, made):
            for one in list(made):  # an earlier change may not be needed any more
                if len(made) > 1 and _fits(setup, phase.name, [move for move in made if move is not one]):
                    made.remove(one)
            return f"set {' '.join(overrides for overrides, _ in made)}"
    for ranks in (setup.ranks * factor for factor in range(2, MOST_TIMES + 1)):
        if _fits(replace(setup, ranks=ranks), phase.name, []):
            nodes = int(config["trainer"]["nnodes"])
            return f"take more GPUs, set {GPUS}={math.ceil(ranks / nodes)}, or a smaller model"
    return "take GPUs with more memory (hardware=h200x8) or a smaller model (model=qwen2.5-1.5b)"


def _fits(setup: Setup, name: str, moves: list[Move]) -> bool:
    changed = replace(setup, **{field: value for _, fields in moves for field, value in fields.items()})
    (phase,) = (phase for phase in phases(changed) if phase.name == name)
    room = name != "rollout" or not changed.utilization or changed.concurrent >= 1
    return room and verdict(phase, changed.memory) == "fits"


def _moves(setup: Setup, name: str, config: Mapping[str, Any]) -> Iterator[Move]:
    if name == "rollout":
        for share in reversed(SHARES):
            if LEAST_SHARE <= share < setup.utilization:
                yield f"{SHARE}={share:g}", {"utilization": share}
    else:
        yield from _smaller(setup, name, config)
        if setup.utilization and not setup.frees_cache:
            yield f"{ROLLOUT}.free_cache_engine=true", {"frees_cache": True}
    if setup.reference and not setup.ref_offload:
        yield f"{REFERENCE}.fsdp_config.param_offload=true", {"ref_offload": True}
    for part in ("optimizer", "param"):
        keys = [] if getattr(setup, f"{part}_offload") else [f"{ACTOR}.fsdp_config.{part}_offload=true"]
        if setup.critic and not getattr(setup, f"critic_{part}_offload"):
            keys.append(f"critic.fsdp.{part}_offload=true")
        if keys:
            yield " ".join(keys), {f"{part}_offload": True, f"critic_{part}_offload": True}
    if name == "rollout":
        for share in reversed(SHARES):
            if share < min(LEAST_SHARE, setup.utilization):
                yield f"{SHARE}={share:g}", {"utilization": share}


def _smaller(setup: Setup, name: str, config: Mapping[str, Any]) -> Iterator[Move]:
    """Yield smaller micro-batches, down to one sequence."""
    field = "update_tokens" if name == "update" else "infer_tokens"
    work, sections = (
        ("ppo", [ACTOR]) if name == "update" else ("log_prob", [ROLLOUT, *([REFERENCE] if setup.reference else [])])
    )
    dynamic = at(config, f"{ACTOR}.use_dynamic_bsz" if name == "update" else f"{ROLLOUT}.log_prob_use_dynamic_bsz")
    tokens = int(getattr(setup, field))
    while tokens // 2 >= setup.sequence:
        tokens //= 2
        samples = ("micro_batch_size_per_gpu", tokens // setup.sequence)
        key, size = ("max_token_len_per_gpu", tokens) if dynamic else samples
        overrides, fields = [f"{section}.{work}_{key}={size}" for section in sections], {field: tokens}
        if setup.critic and setup.critic_tokens > tokens:
            overrides, fields = [*overrides, f"++{CRITIC_TOKENS}={tokens}"], {**fields, "critic_tokens": tokens}
        yield " ".join(overrides), fields


def _more_room(setup: Setup) -> str:
    """Return a share, or a number of GPUs per engine, with which a whole response has room."""
    for tensor in (size for size in divisors(setup.ranks) if size >= setup.tensor_parallel):
        for share in SHARES:
            moves = [("", {"utilization": share, "tensor_parallel": tensor})]
            if share >= setup.utilization and _fits(setup, "rollout", moves):
                split = f" {TENSOR}={tensor}" if tensor != setup.tensor_parallel else ""
                return f"set {SHARE}={share:g}{split}"
    return "take GPUs with more memory (hardware=h200x8) or a smaller model (model=qwen2.5-1.5b)"
