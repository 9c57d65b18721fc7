"""Test experiments/verl_plugin/training/engine.py: which engine veRL takes on a device, and the critic's attention."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin.training.engine import (
    CPUEngineWithLMHead,
    CPUEngineWithValueHead,
    EngineWithLMHead,
    EngineWithValueHead,
)


@pytest.mark.parametrize(
    "device, vendor, actor, critic",
    [
        ("cpu", "cpu", CPUEngineWithLMHead, CPUEngineWithValueHead),
        ("cuda", "nvidia", EngineWithLMHead, EngineWithValueHead),
        ("npu", "ascend", FSDPEngineWithLMHead, FSDPEngineWithValueHead),
    ],
)
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_what_verl_takes(
    device: str, vendor: str, actor: type, critic: type, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERL_ENGINE_DEVICE", device)
    monkeypatch.setenv("VERL_ENGINE_VENDOR", vendor)
    assert EngineRegistry.get_engine_cls("language_model", strategy) is actor
    assert EngineRegistry.get_engine_cls("value_model", strategy) is critic


def critic(seed: int = 1, **override_config: Any) -> EngineWithValueHead:
    """Return a critic that has its config and nothing else."""
    engine = EngineWithValueHead.__new__(EngineWithValueHead)
    engine.engine_config = SimpleNamespace(seed=seed)
    engine.model_config = SimpleNamespace(
        local_path=str(WEIGHTS),
        hf_config=AutoConfig.from_pretrained(WEIGHTS),
        override_config=override_config,
        enable_gradient_checkpointing=bool(override_config.pop("checkpointing", False)),
    )
    return engine


@pytest.mark.parametrize("attention", ["packed_sdpa", "sdpa"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_critic_has_the_attention_that_its_config_names(attention: str, checkpointing: bool) -> None:
    first, second, other = (
        critic(seed, attn_implementation=attention, checkpointing=checkpointing)._build_module() for seed in (1, 1, 2)
    )
    assert first.config._attn_implementation == attention
    assert first.num_labels == 1 and first.is_gradient_checkpointing == checkpointing
    heads = [module.score.weight for module in (first, second, other)]
    assert heads[0].shape[0] == 1 and torch.equal(*heads[:2]), "the new head follows from the seed"
    assert not torch.equal(heads[0], heads[2]), "and another seed has another head"


def test_with_flash_attention_verl_builds_the_critic_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FSDPEngineWithValueHead, "_build_module", lambda self: "veRL's")
    assert critic()._build_module() == "veRL's"
    assert critic(attn_implementation="flash_attention_2")._build_module() == "veRL's"
    monkeypatch.setattr(FSDPEngineWithValueHead, "_build_module", lambda self: torch.rand(4))
    first, second, other = (critic(seed)._build_module() for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other), "its new head follows from the seed as well"
