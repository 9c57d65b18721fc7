"""Test models/memory.py and placement.py: known sizes, what changes an estimate, and that presets fit their GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.checks.gpu_memory import memory_problems
from experiments.models.folder import shape_of
from experiments.models.memory import GIB, Setup, phases, verdict
from experiments.models.placement import OFFLOADS, Way, placement, placement_of
from experiments.models.setup import setup_of
from experiments.models.shape import Shape
from experiments.values import at
from experiments.verl_keys import ACTOR, REFERENCE, ROLLOUT
from tests.experiments.right_config import with_values

Resolve = Callable[..., dict[str, Any]]
SIZES = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b"]
OTHERS = ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "llama3.2-1b", "llama3.2-3b"]


@pytest.mark.parametrize("model", [*SIZES, *OTHERS])
def test_the_shape_has_the_parameters_that_the_model_has(resolved: Resolve, model: str) -> None:
    """Shape counts Qwen2's biases of q, k and v. The others have none; Qwen3 has a norm of queries and one of keys."""
    config = resolved(f"model={model}")["model"]
    shape = Shape.of(config["shape"])
    assert shape is not None
    biases = (shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head
    unlike = {"qwen2.5": 0, "qwen3": 2 * shape.head - biases, "llama3.2": -biases}[model.split("-")[0]]
    assert shape.parameters + shape.num_hidden_layers * unlike == config["parameters"]


def test_the_kv_cache_of_a_token() -> None:
    """3B: 36 layers, 2 heads of 128, keys and values in bf16."""
    assert Shape(2048, 11008, 36, 16, 2, 151936, True).kv_bytes == 36 * 2 * 128 * 2 * 2


@pytest.mark.parametrize("values", [None, {}, {"hidden_size": 8}, {**dict.fromkeys(Shape.__annotations__, 0)}])
def test_no_shape(values: dict[str, Any] | None) -> None:
    assert Shape.of(values) is None


def setup(config: dict[str, Any]) -> Setup:
    found = setup_of(config, shape_of(config))
    assert found is not None
    return found


def totals(of: Setup) -> dict[str, float]:
    return {phase.name: phase.total for phase in phases(of)}


@pytest.mark.parametrize("preset", ["article_grpo", "article_ppo", "tinyzero_ppo"])
def test_what_did_run_fits(resolved: Resolve, preset: str) -> None:
    config = resolved(f"experiment={preset}")
    assert memory_problems(config, setup_of(config, shape_of(config))) == []
    assert {verdict(phase, setup(config).memory) for phase in phases(setup(config))} == {"fits"}


def test_the_phases_by_hand(resolved: Resolve) -> None:
    """3B, bf16, on two GPUs, 16,384 tokens at once, vLLM with 0.65 of 79 GiB. All in GiB."""
    config = resolved("model=qwen2.5-3b", "hardware=a100x2")
    parameters, h, i, layers, vocabulary, tokens = 3085938688, 2048, 11008, 36, 151936, 16384
    weights, moments, gradients = (size * parameters / 2 / GIB for size in (4, 8, 4))
    head = 2 * 2 * vocabulary * h / GIB  # the largest that is gathered, and the next
    layer, kept = tokens * 2 * (12 * h + 4 * i) / GIB, tokens * layers * 2 * h / GIB
    logits = tokens * vocabulary * 2 / GIB + 1
    by_hand = {
        "rollout": weights + moments + 0.65 * 79 + 4,
        "weight sync": 2 * weights + moments + 2 * 4 * vocabulary * h / GIB + 2 * parameters / GIB + 4 + 4,
        "log-prob": weights + moments + head + layer + logits + 4,
        "update": weights + moments + gradients + head + kept + layer + logits + 4,
    }
    assert totals(setup(config)) == pytest.approx(by_hand)
    assert [round(size, 1) for size in by_hand.values()] == [72.6, 39.1, 30.1, 38.1]


def test_one_gpu_holds_a_whole_copy_of_the_weights_while_it_sends_them(resolved: Resolve) -> None:
    (_, sync, *_) = phases(setup(resolved("model=qwen2.5-3b", "hardware=h200x1")))
    assert sync.parts["state dict"] == pytest.approx(4 * 3085938688 / GIB) and sync.parts["gathered layer"] == 0


def test_each_part_counts(resolved: Resolve) -> None:
    base = setup(resolved("model=qwen2.5-3b", "hardware=a100x2"))
    weights = base.shape.parameters * 4 / 2 / GIB
    before = totals(base)
    critic = totals(replace(base, critic=True))
    assert critic["update"] - before["update"] == pytest.approx(3 * weights)  # weights and two moments
    offloaded = totals(replace(base, optimizer_offload=True))
    assert before["rollout"] - offloaded["rollout"] == pytest.approx(2 * weights)
    assert offloaded["update"] == before["update"], "it comes back for the update"
    assert totals(replace(base, reference=False)) == before, "veRL keeps a reference off the GPU"
    assert totals(replace(base, ranks=4))["update"] < before["update"]
    assert totals(replace(base, ranks=4, fsdp_size=2, critic_fsdp_size=1)) == before, "two groups of two"
    of_critic = totals(replace(base, ranks=4, fsdp_size=4, critic=True, critic_fsdp_size=1))["rollout"]
    assert of_critic - totals(replace(base, ranks=4))["rollout"] == pytest.approx(2 * 3 * weights), "a whole one a GPU"
    logits = 2 * base.update_tokens * base.shape.vocab_size / GIB
    for phase, more in (("log-prob", logits), ("update", 2 * logits)):
        assert totals(replace(base, padded=True))[phase] - before[phase] == pytest.approx(more)
        assert before[phase] - totals(replace(base, fused=True))[phase] == pytest.approx(logits + 1)
    assert totals(replace(base, checkpointing=False))["update"] > before["update"] + 20
    assert replace(base, utilization=0.2).concurrent < base.concurrent < replace(base, sequence=640).concurrent


def test_what_does_not_fit_is_told_with_what_to_change(resolved: Resolve) -> None:
    config = resolved("model=qwen2.5-7b", "hardware=a100x1")
    (problem,) = memory_problems(config, setup(config))
    assert problem.startswith("the update phase must fit hardware.memory_gib=79, but needs about 123 GiB (optimizer 57")
    assert "; lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu, or take more GPUs" in problem, "all is offloaded"
    config["hardware"]["memory_gib"] = None
    assert memory_problems(config, setup_of(config, shape_of(config))) == []


def test_the_problem_of_a_phase_names_the_settings_of_that_phase(resolved: Resolve) -> None:
    config = resolved("model=qwen2.5-3b", "hardware=a100x2")
    rollout = config["actor_rollout_ref"]["rollout"]
    rollout["gpu_memory_utilization"] = 0.9
    (problem,) = memory_problems(config, setup(config))
    assert "; lower actor_rollout_ref.rollout.gpu_memory_utilization, set " in problem
    rollout["gpu_memory_utilization"] = 0.1
    (problem,) = memory_problems(config, setup(config))
    assert problem.startswith("actor_rollout_ref.rollout.gpu_memory_utilization must leave room for the weights and")
    assert "; raise actor_rollout_ref.rollout.gpu_memory_utilization or " in problem
    rollout["gpu_memory_utilization"] = 0.4
    config["actor_rollout_ref"]["actor"]["ppo_max_token_len_per_gpu"] = 131072
    (problem,) = memory_problems(config, setup(config))
    assert "; lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu, set " in problem


def test_what_else_stays_on_a_gpu(resolved: Resolve) -> None:
    """vLLM's share if it does not free it, the critic by its own settings, the transformers rollout's own copy."""
    config = resolved("model=qwen2.5-3b", "hardware=a100x2")
    before = totals(setup(config))
    kept = totals(setup(with_values(config, {"actor_rollout_ref.rollout.free_cache_engine": False})))
    share = config["actor_rollout_ref"]["rollout"]["gpu_memory_utilization"] * 79
    assert kept["rollout"] == before["rollout"]
    assert kept["update"] - before["update"] == kept["log-prob"] - before["log-prob"] == pytest.approx(share)

    ppo = resolved("model=qwen2.5-3b", "hardware=a100x8", "algorithm=ppo")
    base, weights = setup(ppo), setup(ppo).shard(4)
    assert not base.critic_optimizer_offload and base.critic_tokens == base.update_tokens == 8192
    lean = setup(with_values(ppo, {"critic.fsdp.optimizer_offload": True, "critic.fsdp.param_offload": True}))
    assert totals(base)["rollout"] - totals(lean)["rollout"] == pytest.approx(3 * weights)
    greedy = setup(with_values(ppo, {"critic.ppo_infer_max_token_len_per_gpu": 262144}))
    (update,) = (phase for phase in phases(greedy) if phase.name == "update")
    assert "critic's activations" in update.parts and update.total > totals(base)["update"] + 20

    at_once = {"actor_rollout_ref.rollout.max_num_seqs": 256}  # of the 320 responses
    hf = setup(with_values(config, {"actor_rollout_ref.rollout.name": "hf", **at_once}))
    (rollout, *others) = phases(hf)
    assert rollout.parts["rollout's copy"] == pytest.approx(hf.shape.parameters * 2 / GIB)
    assert rollout.parts["KV cache"] == pytest.approx(256 * 1280 * hf.shape.kv_bytes / GIB)
    assert all(phase.parts["rollout's copy"] == rollout.parts["rollout's copy"] for phase in others)


@pytest.mark.parametrize(
    ("overrides", "values"),
    [
        (("hardware=a100x2",), {"actor_rollout_ref.rollout.gpu_memory_utilization": 0.95}),
        (("hardware=a100x2",), {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 10**6}),
        (("hardware=a100x2",), {"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": 10**6}),
        (("hardware=a100x2", "algorithm=ppo"), {"critic.ppo_infer_max_token_len_per_gpu": 10**6}),
        (("experiment=article_ppo",), {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 64}),
        (("hardware=a100x2", "algorithm=ppo"), {"hardware.memory_gib": 50}),
    ],
    ids=str,
)
def test_every_setting_that_a_problem_names_makes_the_phase_smaller(
    resolved: Resolve, overrides: tuple[str, ...], values: dict[str, Any]
) -> None:
    config = with_values(resolved("model=qwen2.5-3b", *overrides), values)
    problems = memory_problems(config, setup(config))
    assert problems
    for problem in problems:
        phase, before = problem.removeprefix("the ").partition(" phase ")[0], totals(setup(config))
        lower, offload = re.search(r"lower ([^,]*)", problem), re.search(r"set (.*) to true", problem)
        assert lower or phase == "weight sync"
        if lower:
            asked = {key: at(config, key) // 2 if phase != "rollout" else 0.3 for key in lower[1].split(" and ")}
            assert totals(setup(with_values(config, asked)))[phase] < before[phase]
        for key in offload[1].split(" or ") if offload else ():
            assert totals(setup(with_values(config, {key: True})))[phase] <= before[phase]


def test_nothing_is_said_of_what_is_not_known(resolved: Resolve) -> None:
    config = resolved()
    assert setup_of(config, shape_of(config)) is None
    assert setup_of(resolved("hardware=a100x2", "model=qwen2.5-3b"), None) is None


# The placement


def place(shape: Shape, gpus: int, memory: float, estimator: str) -> Way:
    critic = estimator == "gae"
    return placement(Setup(shape=shape, ranks=gpus, memory=memory, critic=critic))


SHAPES = {
    "3b": Shape(2048, 11008, 36, 16, 2, 151936, True),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064),
}


@pytest.mark.parametrize(
    "model, gpus, memory, estimator, expected",
    [
        ("3b", 2, 79, "grpo", Way(False, False, True, 16384, 0.65, 960)),
        ("3b", 2, 79, "gae", Way(False, False, True, 16384, 0.4, 512)),
        ("3b", 2, 139, "grpo", Way(False, False, False, 16384, 0.75, 1024)),
        ("3b", 1, 139, "grpo", Way(False, False, False, 8192, 0.65, 1024)),
        ("3b", 1, 79, "gae", Way(False, True, True, 16384, 0.55, 768)),
        ("7b", 2, 79, "grpo", Way(False, True, True, 8192, 0.65, 448)),
        ("7b", 8, 79, "grpo", Way(False, False, True, 16384, 0.7, 512)),
    ],
)
def test_no_needless_offload(model: str, gpus: int, memory: float, estimator: str, expected: Way) -> None:
    assert place(SHAPES[model], gpus, memory, estimator) == expected


def test_more_memory_is_never_less_on_the_gpu() -> None:
    for estimator in ("grpo", "gae"):
        for shape in SHAPES.values():
            ways = [place(shape, 2, memory, estimator) for memory in range(40, 200, 4)]
            order = [OFFLOADS.index((way.param_offload, way.optimizer_offload)) for way in ways]
            assert order == sorted(order, reverse=True)


@pytest.mark.parametrize(
    "values",
    [*({"hardware.memory_gib": bad} for bad in (None, 0, "many")), {"model.path": "me/it", "model.shape": None}],
)
def test_what_is_unknown_gets_the_roomiest(resolved: Resolve, values: dict[str, Any]) -> None:
    config = with_values(resolved("model=qwen2.5-3b", "hardware=a100x2"), values)
    assert placement_of(config) == Way(False, False, True, 16384, 0.5, 256)


CHOSEN = {  # the keys that a preset takes from its placement, for the policy and for the critic
    "param_offload": (f"{ACTOR}.fsdp_config.param_offload", "critic.fsdp.param_offload"),
    "optimizer_offload": (f"{ACTOR}.fsdp_config.optimizer_offload", "critic.fsdp.optimizer_offload"),
    "checkpointing": (
        *("actor_rollout_ref.model.enable_gradient_checkpointing", "critic.model.enable_gradient_checkpointing"),
    ),
    "max_token_len": (f"{ACTOR}.ppo_max_token_len_per_gpu", "critic.ppo_infer_max_token_len_per_gpu"),
    "gpu_memory_utilization": (f"{ROLLOUT}.gpu_memory_utilization",),
    "max_num_seqs": (f"{ROLLOUT}.max_num_seqs",),
}
SEVEN = "model=qwen2.5-7b"
WITHIN_A_NODE = (f"{ACTOR}.fsdp_config.fsdp_size=8", f"{REFERENCE}.fsdp_config.fsdp_size=8")
BY_SAMPLES = (
    *(f"{ACTOR}.use_dynamic_bsz=false", f"{ACTOR}.ppo_micro_batch_size_per_gpu=16"),
    *(f"{section}.log_prob_micro_batch_size_per_gpu=16" for section in (ROLLOUT, REFERENCE)),
)


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        ((SEVEN, "hardware=a100x8n2", "algorithm=ppo", *WITHIN_A_NODE, "critic.fsdp.fsdp_size=8"), True),
        ((SEVEN, "hardware=a100x8", f"{ACTOR}.fsdp_config.fsdp_size=2"), True),
        ((SEVEN, "hardware=a100x8", "algorithm=ppo", "critic.fsdp.fsdp_size=2"), True),
        (("model=qwen2.5-3b", "hardware=a100x2", f"{ROLLOUT}.free_cache_engine=false"), True),
        ((SEVEN, "hardware=a100x2", f"{ROLLOUT}.tensor_model_parallel_size=2"), False),
        ((SEVEN, "hardware=a100x2", "actor_rollout_ref.model.use_remove_padding=false"), False),
        ((SEVEN, "hardware=a100x2", *BY_SAMPLES), False),
        ((SEVEN, "hardware=a100x4", f"{ROLLOUT}.name=hf"), False),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, tuple) else None,
)
def test_the_placement_knows_all_that_the_estimate_knows(
    resolved: Resolve, overrides: tuple[str, ...], needed: bool
) -> None:
    """Preflight accepts what is placed. `needed`: it would refuse what is placed without these settings."""
    config = resolved(*overrides)
    alone = placement_of(resolved(*(text for text in overrides if text.split("=")[0] in ("model", "hardware"))))
    way = placement_of(config)
    assert way != alone
    assert all(at(config, key) == getattr(way, name) for name, keys in CHOSEN.items() for key in keys)
    assert memory_problems(config, setup(config)) == []
    other = with_values(config, {key: getattr(alone, name) for name, keys in CHOSEN.items() for key in keys})
    assert bool(memory_problems(other, setup(other))) == needed


def test_the_folder_s_sizes_place(composed: Callable[..., Any], tmp_path: Path) -> None:
    """A folder that holds a larger model than the one that is stated, or of which nothing is stated."""
    sizes = {name: getattr(SHAPES["7b"], name) for name in Shape.__annotations__}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    for stated in ((), ("model.shape=null", "model.parameters=null")):
        config = composed("model=qwen2.5-3b", "hardware=a100x2", f"model.path={tmp_path}", *stated)
        assert placement_of(config) == place(SHAPES["7b"], 2, 79, "grpo")


def test_as_many_sequences_as_the_cache_holds_and_one_wave_of_a_step(resolved: Resolve) -> None:
    """One H200 has 640 responses a step: with veRL's 256 at once they would come in three waves."""
    for hardware, waves in (("a100x2", 1), ("h200x1", 1), ("h200x8", 1)):
        config = resolved("model=qwen2.5-3b", f"hardware={hardware}")
        most, held = config["actor_rollout_ref"]["rollout"]["max_num_seqs"], setup(config).concurrent
        assert most % 64 == 0 and most <= min(held, 1024) < most + 64
        assert -(-setup(config).samples // most) == waves
    assert -(-640 // 256) == 3
