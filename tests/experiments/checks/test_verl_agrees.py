"""Compare each rule of sizes with veRL itself: veRL's assertion or worker stops at what we refuse, and only at that.

test_parallelism.py compares with veRL's validate_config; tests/e2e has the trainings that pass.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from experiments.checks.batch_sizes import batch_problems
from experiments.checks.model_files import model_problems
from experiments.checks.parallelism import sequence_problems, sharding_problems
from experiments.checks.value_rules import faults
from experiments.config.verl import verl_node
from experiments.models.shape import Shape
from experiments.project import PROJECT_DIR
from experiments.tiny_model import WEIGHTS
from experiments.verl_keys import DEFAULT_CRITIC_TOKENS
from tests.experiments.checks.test_parallelism import SP, TP, A, C, R
from tests.experiments.right_config import parallel_problems, with_values

Config = dict[str, Any]
Resolve = Callable[..., Config]
MICRO, MINI = f"{A}.ppo_micro_batch_size_per_gpu", f"{A}.ppo_mini_batch_size"


@pytest.fixture(scope="module")
def base(resolved: Resolve) -> Config:
    """A config with sixteen prompts, five samples for each, on one rank."""
    return resolved("experiment=smoke", "hardware.fast=false")


def refused(config: Config) -> bool:
    return bool(faults(config) or batch_problems(config) or parallel_problems(config, None) or model_problems(config))


def sequences(count: int, length: int) -> Any:
    rows = torch.nested.as_nested_tensor([torch.ones(length, dtype=torch.long)] * count, layout=torch.jagged)
    return TensorDict({"input_ids": rows}, batch_size=[count])


@pytest.mark.parametrize("micro", [1, 3, 5, 16, 32, 80, 160])
def test_micro_batches_must_divide(base: Config, micro: int) -> None:
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine.utils import prepare_micro_batches

    share = 16 * 5
    data = sequences(share, 4)
    tu.assign_non_tensor(data, use_dynamic_bsz=False, micro_batch_size_per_gpu=micro)
    if refused(with_values(base, {MICRO: micro})):
        with pytest.raises((AssertionError, ZeroDivisionError)):
            prepare_micro_batches(data)
    else:
        assert len(prepare_micro_batches(data)[0]) == share // micro


@pytest.mark.parametrize(("mini", "n", "ranks"), [(16, 5, 2), (8, 5, 4), (1, 5, 2), (3, 5, 4), (1, 4, 2), (16, 5, 3)])
def test_a_mini_batch_must_divide_over_the_ranks(base: Config, mini: int, n: int, ranks: int) -> None:
    from verl.utils import tensordict_utils as tu
    from verl.workers.engine_workers import TrainingWorker

    values = {"data.train_batch_size": 48, MINI: mini, f"{R}.n": n, "trainer.n_gpus_per_node": ranks}
    config = with_values(base, {**values, "rollout.n": n, f"{A}.use_dynamic_bsz": True})
    config["actor_rollout_ref"]["rollout"]["log_prob_use_dynamic_bsz"] = True
    config["actor_rollout_ref"]["ref"]["log_prob_use_dynamic_bsz"] = True

    class Reached(Exception):
        """The worker got past its check."""

    def train_mode(**_: Any) -> None:
        raise Reached

    worker: Any = TrainingWorker.__new__(TrainingWorker)
    worker.engine = SimpleNamespace(
        get_data_parallel_size=lambda: ranks, get_data_parallel_rank=lambda: 0, train_mode=train_mode
    )
    data = sequences(48 * n // ranks, 4)
    tu.assign_non_tensor(data, mini_batch_size=mini * n)
    with pytest.raises(AssertionError if refused(config) else Reached):
        TrainingWorker.train_mini_batch(worker, data)


@pytest.mark.parametrize("tokens", [100, 159, 160, 161, 4096])
def test_a_micro_batch_cut_by_tokens_must_hold_a_sequence(base: Config, tokens: int) -> None:
    from verl.utils.seqlen_balancing import rearrange_micro_batches

    config = with_values(base, {"data.max_prompt_length": 32, "data.max_response_length": 128})
    dynamic = {f"{A}.use_dynamic_bsz": True, f"{R}.log_prob_use_dynamic_bsz": True}
    limits = {f"{A}.ppo_max_token_len_per_gpu": tokens, f"{R}.log_prob_max_token_len_per_gpu": tokens}
    config = with_values(config, {**dynamic, **limits})
    if refused(config):
        with pytest.raises(AssertionError, match="max_token_len must be greater than the sequence length"):
            rearrange_micro_batches(sequences(6, 160), tokens)
    else:
        assert sum(len(batch) for batch in rearrange_micro_batches(sequences(6, 160), tokens)[0]) == 6


@pytest.mark.parametrize(("batch", "mini", "critic"), [(48, 16, 16), (40, 16, 16), (48, 16, 20), (48, 24, 16)])
def test_mini_batches_that_do_not_divide_are_padded(resolved: Resolve, batch: int, mini: int, critic: int) -> None:
    """veRL starts and adds samples that nobody asked for. The message says so exactly when veRL does it."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    values = {"data.train_batch_size": batch, MINI: mini, f"{C}.ppo_mini_batch_size": critic}
    config = with_values(resolved("experiment=smoke", "algorithm=ppo", "hardware.fast=false"), values)
    n = config["actor_rollout_ref"]["rollout"]["n"]
    trainer = SimpleNamespace(config=OmegaConf.create(verl_node(config)), use_critic=True, global_steps=1)
    multiple = PPOTrainer._get_required_batch_multiple(trainer, 1)
    padded = batch * n % multiple != 0
    told = [problem for problem in batch_problems(config) if "fill the last mini-batch with padding" in problem]
    assert bool(told) == padded


@pytest.mark.parametrize("experiment", ["article_ppo", "tinyzero_ppo"])
def test_the_critic_s_micro_batches_are_cut_by_the_key_that_the_presets_set(resolved: Resolve, experiment: str) -> None:
    """veRL gives its engine only this number of tokens, and no other size: no key of its YAML, no samples per GPU."""
    from omegaconf import OmegaConf
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import FSDPCriticConfig

    assert FSDPCriticConfig.ppo_infer_max_token_len_per_gpu == DEFAULT_CRITIC_TOKENS
    config = resolved(f"experiment={experiment}")
    weights = str(PROJECT_DIR / "experiments" / "tiny_model" / "weights")
    config = with_values(config, {f"{C}.model.path": weights, f"{C}.model.tokenizer_path": weights})
    critic = omega_conf_to_dataclass(OmegaConf.create(config["critic"]))
    assert critic.engine.use_dynamic_bsz and critic.engine.micro_batch_size_per_gpu is None
    longest = config["data"]["max_prompt_length"] + config["data"]["max_response_length"]
    assert critic.ppo_infer_max_token_len_per_gpu == config["critic"]["ppo_micro_batch_size_per_gpu"] * longest


@pytest.mark.parametrize(("heads", "groups"), [(4, 2), (6, 2), (14, 2), (12, 6), (16, 2)])
@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
def test_sequences_are_split_by_heads(
    base: Config, monkeypatch: pytest.MonkeyPatch, heads: int, groups: int, size: int
) -> None:
    """veRL asserts this when it patches attention, after it has loaded the model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.integrations import flash_attention
    from verl.models.transformers.monkey_patch import apply_monkey_patch

    monkeypatch.setattr(flash_attention, "_flash_attention_forward", flash_attention._flash_attention_forward)
    shape = Shape(heads * 2, 4, 1, heads, groups, 8)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=8, **{name: getattr(shape, name) for name in names}))
    remove_padding = {"actor_rollout_ref.model.use_remove_padding": True}
    values = {f"{A}.{SP}": size, "trainer.n_gpus_per_node": 3 * 7 * 8, **remove_padding}
    if sequence_problems(with_values(base, values), shape):
        with pytest.raises(AssertionError, match=r"must be divisible by ulysses_sp_size"):
            apply_monkey_patch(model, ulysses_sp_size=size)
    else:
        apply_monkey_patch(model, ulysses_sp_size=size)


@pytest.mark.parametrize("size", [-1, 0, 1, 2, 3, 4, 8, 16])
def test_every_rank_is_in_a_group_of_shards(base: Config, size: int) -> None:
    """veRL leaves ranks without a place on the mesh, and shards nothing there, where groups do not divide them."""
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from verl.workers.engine.fsdp.utils import create_device_mesh

    refused = sharding_problems(with_values(base, {f"{A}.fsdp_config.fsdp_size": size, "trainer.n_gpus_per_node": 8}))
    distributed.init_process_group("fake", store=FakeStore(), rank=7, world_size=8)  # the last of eight ranks
    try:
        if size == 0:
            with pytest.raises(ZeroDivisionError):
                create_device_mesh(8, size)
            assert refused
        else:
            assert (create_device_mesh(8, size).get_coordinate() is None) == bool(refused)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradients_are_averaged_over_all_ranks(base: Config, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """strategy=fsdp on four ranks: torch reduces in each group, and between groups unless a group is one rank."""
    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel, _runtime_utils
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from verl.workers.engine.fsdp.utils import create_device_mesh, get_sharding_strategy

    key = f"{A}.fsdp_config.fsdp_size"
    values = {key: size, f"{A}.strategy": "fsdp", "trainer.n_gpus_per_node": 4}
    refused = sharding_problems(with_values(base, values))
    assert not sharding_problems(with_values(base, {**values, f"{A}.strategy": "fsdp2"}))
    groups = []

    def count(name: str) -> None:
        real = getattr(distributed, name)

        def reduce(*arguments: Any, group: Any) -> Any:
            groups.append(group.size())
            return real(*arguments, group=group)

        monkeypatch.setattr(_runtime_utils.dist, name, reduce)

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        mesh = create_device_mesh(4, size)
        module = FullyShardedDataParallel(
            torch.nn.Linear(4, 4),
            device_mesh=mesh,
            sharding_strategy=get_sharding_strategy(mesh),
            device_id=torch.device("cpu"),
        )
        for name in ("all_reduce", "reduce_scatter_single"):
            count(name)
        module(torch.ones(2, 4)).sum().backward()
    finally:
        distributed.destroy_process_group()
    assert (math.prod(groups) == 4) == (not refused), (groups, refused)


WORKER = """
import json, os, sys
from omegaconf import OmegaConf
from experiments.verl_plugin.training.worker import PluginActorRolloutRefWorker

for config in json.load(sys.stdin):
    try:
        PluginActorRolloutRefWorker(OmegaConf.create(config), role="actor_rollout").init_model()
        print("RESULT started", flush=True)
    except Exception as error:
        print(f"RESULT {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
"""


def model(folder: Path, *lacks: str, weights: bytes | None = None) -> Config:
    """Return the keys of a copy of the tiny model that lacks some files, or has other bytes as its weights."""
    shutil.copytree(WEIGHTS, folder, ignore=shutil.ignore_patterns(*lacks))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return dict.fromkeys(("model.path", "actor_rollout_ref.model.path"), str(folder))


def test_a_worker_starts_or_stops_as_predicted(base: Config, tmp_path: Path) -> None:
    """Starts veRL's own worker, with a model and a rollout, on one rank."""
    whole = (WEIGHTS / "model.safetensors").read_bytes()
    wrong: list[tuple[Config, str]] = [
        ({f"{R}.log_prob_use_dynamic_bsz": True}, "AssertionError: "),
        ({TP: 3}, "AssertionError: rollout world_size: 1 is not divisible by infer_world_size: 3"),
        (
            {f"{R}.data_parallel_size": 2},
            "AssertionError: rollout world_size: 1 is not divisible by infer_world_size: 2",
        ),
        ({TP: 0}, "ZeroDivisionError: "),
        ({f"{A}.{SP}": 4}, ""),
        (dict.fromkeys(("model.path", "actor_rollout_ref.model.path"), str(tmp_path / "none")), ""),
        (model(tmp_path / "no-config", "config.json"), ""),
        (model(tmp_path / "no-weights", "*.safetensors"), "OSError: "),
        (model(tmp_path / "torn-weights", weights=whole[:-11]), "SafetensorError: "),
        (model(tmp_path / "no-weights-at-all", weights=b"version https://git-lfs.github.com/spec/v1"), ""),
        (model(tmp_path / "whole"), "started"),
        ({}, "started"),
        ({f"{A}.use_dynamic_bsz": True, f"{R}.log_prob_use_dynamic_bsz": True}, "started"),
    ]
    configs = [with_values(base, values) for values, _ in wrong]
    assert [refused(config) for config in configs] == [said != "started" for _, said in wrong]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WORKER],
        input=json.dumps([verl_node(config)["actor_rollout_ref"] for config in configs]),
        env={
            **os.environ,
            **alone,
            "PYTHONPATH": str(PROJECT_DIR),
            "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(results) == len(wrong), done.stdout + done.stderr
    for (values, said), result in zip(wrong, results, strict=True):
        assert result.startswith(said) and (result == "started") == (said == "started"), (values, result)
