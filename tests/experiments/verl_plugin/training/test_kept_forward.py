"""Test experiments/verl_plugin/training/kept_forward.py: when an update reuses the old log-probs' forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoModelForCausalLM
from verl.utils.tensordict_utils import assign_non_tensor

from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin import attention
from experiments.verl_plugin.training import kept_forward
from experiments.verl_plugin.training.engine import CPUEngineWithLMHead

ROWS = ([5, 9, 12, 7], [3, 8], [11, 4, 6, 10, 13])


class Engine(CPUEngineWithLMHead):
    """The actor's engine without processes, on the shipped model; counts its forward passes."""

    def __init__(self) -> None:
        self.module = AutoModelForCausalLM.from_pretrained(
            WEIGHTS, dtype=torch.float32, attn_implementation=attention.NAME
        ).eval()
        self.model_config: Any = OmegaConf.create({"override_config": {"attn_implementation": attention.NAME}})
        self.pad_to_length, self.use_ulysses_sp, self._autocast_dtype = None, False, torch.float32
        self.forwards = 0
        self.module.register_forward_hook(self.count)

    def count(self, *args: Any) -> None:
        self.forwards += 1

    def get_data_parallel_group(self) -> None:
        return None

    def old_log_probs(self, batch: TensorDict) -> torch.Tensor:
        with torch.no_grad():
            _, output = self.forward_step(batch, None, forward_only=True)
        assert not output["model_output"]["log_probs"].requires_grad
        return output["model_output"]["log_probs"].values()

    def gradient(self, batch: TensorDict) -> torch.Tensor:
        """Do the update of a step; return the gradient of all weights, one after the other."""
        self.module.zero_grad()
        loss, output = self.forward_step(batch, mean_log_prob, forward_only=False)
        assert output["loss"] == loss.item() and output["metrics"] == {"seen": sorted(batch.keys())}
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in self.module.parameters()])


def mean_log_prob(model_output: dict[str, torch.Tensor], data: TensorDict, dp_group: None) -> tuple[torch.Tensor, dict]:
    return model_output["log_probs"].values().mean(), {"seen": sorted(data.keys())}


def batch(rows: Any = ROWS, temperature: float = 1.0, **flags: Any) -> TensorDict:
    ids = torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
    positions = torch.nested.as_nested_tensor([torch.arange(len(row)) for row in rows], layout=torch.jagged)
    made = TensorDict({"input_ids": ids, "position_ids": positions}, batch_size=[len(rows)])
    assign_non_tensor(made, temperature=temperature, **flags)
    return made


KEPT = {kept_forward.KEEP_FORWARD: True, "calculate_entropy": True}


def test_an_update_of_what_was_kept_needs_no_forward_pass_and_gives_the_same_gradient() -> None:
    engine, other = Engine(), Engine()
    plain = other.old_log_probs(batch())
    expected = other.gradient(batch())
    assert torch.equal(engine.old_log_probs(batch(**KEPT)), plain)
    assert torch.equal(engine.gradient(batch()), expected) and expected.abs().max() > 0
    assert (engine.forwards, other.forwards) == (1, 2)
    assert torch.equal(engine.gradient(batch()), expected), "a second update, of the same weights"
    assert engine.forwards == 2


@pytest.mark.parametrize(
    "other",
    [
        batch(([5, 9, 12, 7], [3, 8], [11, 4, 6, 10, 2])),
        batch(([5, 9, 12], [7, 3, 8], [11, 4, 6, 10, 13])),
        batch(ROWS[:2]),
        batch(temperature=0.7),
        batch(calculate_entropy=True),
    ],
    ids=["other tokens", "cut elsewhere", "a part of it", "other temperature", "with its entropy"],
)
def test_an_update_of_anything_else_goes_forward_itself(other: TensorDict) -> None:
    engine = Engine()
    engine.old_log_probs(batch(**KEPT))
    assert torch.equal(engine.gradient(other), Engine().gradient(other))
    assert engine.forwards == 2


def test_only_the_next_pass_may_take_it_and_weights_that_move_come_after_that() -> None:
    engine = Engine()
    engine.old_log_probs(batch(**KEPT))
    engine.old_log_probs(batch(ROWS[:1]))
    engine.gradient(batch())
    assert engine.forwards == 3
    engine.old_log_probs(batch(**KEPT))
    engine.gradient(batch())
    with torch.no_grad():
        engine.module.lm_head.weight.mul_(1.5)
    assert torch.equal(engine.old_log_probs(batch(**KEPT)), engine.old_log_probs(batch()))
    assert engine.forwards == 6


def test_a_model_that_drops_out_in_training_is_asked_again() -> None:
    engine = Engine()
    engine.module.config.attention_dropout = 0.1
    engine.old_log_probs(batch(**KEPT))
    engine.gradient(batch())
    assert engine.forwards == 2


CONFIG: dict[str, Any] = {
    "trainer": {"device": "cpu"},
    "actor_rollout_ref": {
        "actor": {
            "ppo_mini_batch_size": 32,
            "ppo_micro_batch_size_per_gpu": 80,
            "use_dynamic_bsz": False,
            "shuffle": False,
            "calculate_entropy": False,
            "entropy_coeff": 0,
        },
        "rollout": {"n": 5, "log_prob_micro_batch_size_per_gpu": 80, "log_prob_use_dynamic_bsz": False},
        "model": {"enable_gradient_checkpointing": False},
    },
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.device", "cuda"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 16),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", 40),
        ("actor_rollout_ref.actor.use_dynamic_bsz", True),
        ("actor_rollout_ref.actor.shuffle", True),
        ("actor_rollout_ref.actor.entropy_coeff", 0.001),
        ("actor_rollout_ref.actor.calculate_entropy", True),
        ("actor_rollout_ref.rollout.n", 3),
        ("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu", None),
        ("actor_rollout_ref.rollout.log_prob_use_dynamic_bsz", True),
        ("actor_rollout_ref.model.enable_gradient_checkpointing", True),
    ],
)
def test_it_is_worth_it_where_the_update_is_one_forward_pass(key: str, value: Any) -> None:
    config = OmegaConf.create(CONFIG)
    assert kept_forward.worth_keeping(config, samples=160, ranks=2)
    assert not kept_forward.worth_keeping(config, samples=160, ranks=1)
    OmegaConf.update(config, key, value)
    assert not kept_forward.worth_keeping(config, samples=160, ranks=2)
