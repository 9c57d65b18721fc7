"""checks/parallelism.py refuses before the start what veRL and its workers would refuse minutes later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.checks.batch_sizes import batch_problems
from experiments.checks.unread_keys import legacy_problems
from experiments.config.verl import verl_node
from experiments.models.shape import Shape
from experiments.project import PROJECT_DIR
from tests.experiments.right_config import parallel_problems, with_values

Config = dict[str, Any]
Resolve = Callable[..., Config]
SHAPE = Shape(2048, 11008, 36, 16, 2, 151936, True)
A, R, F, C = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref", "critic"
FS = f"{A}.fsdp_config.fsdp_size"
TP, SP = f"{R}.tensor_model_parallel_size", "ulysses_sequence_parallel_size"


@pytest.fixture(scope="module")
def base(resolved: Resolve) -> Config:
    return resolved("model=qwen2.5-3b", "hardware=a100x2")


@pytest.fixture(scope="module")
def article(resolved: Resolve) -> Config:
    return resolved("experiment=article_ppo")


def test_the_presets_have_no_problems(base: Config, article: Config) -> None:
    assert parallel_problems(base, SHAPE) == parallel_problems(article, SHAPE) == []


@pytest.mark.parametrize(
    "values, problem",
    [
        (
            {TP: 3},
            "the GPUs of a rollout engine, tensor_model_parallel_size=3 x data_parallel_size=1 x "
            f"pipeline_model_parallel_size=1, must divide the 2 GPUs, but do not; set {TP}=1",
        ),
        ({f"{R}.data_parallel_size": 3}, f"must divide the 2 GPUs, but do not; set {R}.data_parallel_size=1"),
        (
            {TP: 8, "trainer.n_gpus_per_node": 24},
            None,
        ),
        (
            {TP: 3, "trainer.n_gpus_per_node": 6},
            f"{TP} must divide the model's 16 attention heads and divide its 2 key-value heads or be a multiple of "
            f"them, but is 3; set {TP}=2",
        ),
        ({f"{A}.{SP}": 4}, f"{A}.{SP} must divide the 2 GPUs, but is 4; set {A}.{SP}=1"),
        (
            {f"{A}.{SP}": 2, "actor_rollout_ref.model.use_remove_padding": False},
            f"actor_rollout_ref.model.use_remove_padding must be true with {A}.{SP}=2, but is false; "
            "set actor_rollout_ref.model.use_remove_padding=true",
        ),
        (
            {FS: 3, "trainer.n_gpus_per_node": 8},
            f"{FS} must divide the 8 GPUs, or be -1 for all of them, but is 3; set {FS}=-1",
        ),
        ({FS: 0}, f"{FS} must divide the 2 GPUs, or be -1 for all of them, but is 0; set {FS}=-1"),
        ({FS: 4, f"{F}.fsdp_config.fsdp_size": 1, f"{C}.fsdp.fsdp_size": 3}, None),
        (
            {FS: 1},
            f"{FS} must be at least 2, or -1 for all GPUs, with {A}.strategy=fsdp, but is 1: torch would average no "
            f"gradients between the 2 GPUs; set {FS}=-1 or {A}.strategy=fsdp2",
        ),
        ({FS: 1, f"{A}.strategy": "fsdp2"}, None),
        ({FS: 1, "trainer.n_gpus_per_node": 1}, None),
        (
            {f"{R}.log_prob_use_dynamic_bsz": False},
            f"{R}.log_prob_use_dynamic_bsz must be {A}.use_dynamic_bsz=true, but is false; "
            f"set {R}.log_prob_use_dynamic_bsz=true",
        ),
        (
            {f"{A}.ppo_max_token_len_per_gpu": 1024},
            f"{A}.ppo_max_token_len_per_gpu must be at least 1280, the longest prompt with the longest response, but "
            f"is 1024; set {A}.ppo_max_token_len_per_gpu=1280",
        ),
        ({f"{A}.ppo_max_token_len_per_gpu": 640, f"{A}.{SP}": 2}, None),
        ({f"{C}.ppo_max_token_len_per_gpu": 1024}, None),
        (
            {f"{R}.max_model_len": 1000},
            f"{R}.max_model_len must be null or at least data.max_prompt_length + data.max_response_length = 1280, "
            f"but is 1000; set {R}.max_model_len=null",
        ),
        (
            {f"{R}.max_num_batched_tokens": 128},
            f"{R}.max_num_batched_tokens must be at least {R}.max_num_seqs=960, but is 128; set {R}.max_num_seqs=128",
        ),
        (
            {f"{R}.enable_chunked_prefill": False, f"{R}.max_num_batched_tokens": 1024},
            f"{R}.max_num_batched_tokens must be at least 1280 without chunked prefill, but is 1024: veRL would raise "
            f"it silently; set {R}.max_num_batched_tokens=1280",
        ),
    ],
)
def test_a_rule_and_what_to_do(base: Config, values: dict[str, Any], problem: str | None) -> None:
    found = parallel_problems(with_values(base, values), SHAPE)
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1 and found[0].endswith(problem)


def test_heads_are_known_only_with_the_shape(base: Config) -> None:
    assert parallel_problems(with_values(base, {TP: 3, "trainer.n_gpus_per_node": 6}), None) == []


# veRL's own answer to the same configs


def verl_refuses(config: Config) -> bool:
    """Return whether veRL's validate_config refuses a config. It reads model files, so both models are local here."""
    from hydra.errors import InstantiationException
    from verl.utils.config import validate_config

    weights = str(PROJECT_DIR / "experiments" / "tiny_model" / "weights")
    paths = {f"{name}.model.path": weights for name in ("actor_rollout_ref", "critic")}
    tree = OmegaConf.create(verl_node(with_values(config, {**paths, "critic.model.tokenizer_path": weights})))
    actor, algorithm = config["actor_rollout_ref"]["actor"], config["algorithm"]
    try:
        validate_config(
            tree,
            use_reference_policy=actor["use_kl_loss"] or algorithm["use_kl_in_reward"],
            use_critic=algorithm["adv_estimator"] == "gae",
        )
    except (AssertionError, ValueError, InstantiationException):
        return True
    return False


MINI = f"{A}.ppo_mini_batch_size"
MICRO = f"{A}.ppo_micro_batch_size_per_gpu"
SAMPLE: list[dict[str, Any]] = [
    {},
    {"data.train_batch_size": 127, "critic.ppo_mini_batch_size": 127, MINI: 127},
    {"data.train_batch_size": 32},
    {MINI: 256},
    {f"{A}.ppo_micro_batch_size": 4},
    {f"{C}.ppo_micro_batch_size": 4},
    {f"{C}.ppo_mini_batch_size": 256},
    {f"{F}.log_prob_micro_batch_size": 4},
    {f"{R}.log_prob_micro_batch_size": 4},
    {f"{A}.{SP}": 2, "actor_rollout_ref.model.use_remove_padding": False},
    {f"{A}.{SP}": 2},
    {f"{C}.{SP}": 2, "critic.model.use_remove_padding": False},
    {MICRO: None},
    {f"{R}.log_prob_micro_batch_size_per_gpu": None},
    {f"{F}.log_prob_micro_batch_size_per_gpu": None},
]


@pytest.mark.parametrize("values", SAMPLE, ids=str)
def test_what_verl_refuses_is_refused_here(article: Config, values: dict[str, Any]) -> None:
    config = with_values(article, values)
    ours = [*batch_problems(config), *parallel_problems(config, SHAPE), *legacy_problems(config)]
    assert bool(ours) == verl_refuses(config), ours


@pytest.mark.parametrize("preset", ["article_grpo", "article_ppo", "tinyzero_ppo"])
def test_verl_accepts_the_presets(resolved: Resolve, preset: str) -> None:
    assert not verl_refuses(resolved(f"experiment={preset}"))
