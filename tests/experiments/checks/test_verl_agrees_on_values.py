"""Compare the rules of single values and of unread keys with veRL itself, or with torch: what stops, what is unread."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.checks.batch_sizes import group_problems
from experiments.checks.unread_keys import LEGACY, kl_problems, legacy_problems
from experiments.checks.value_rules import ENGINES, ESTIMATORS, KL_TYPES
from experiments.config.verl import verl_node
from tests.experiments.checks.test_parallelism import A, R, verl_refuses
from tests.experiments.right_config import problems_of, with_values

Config = dict[str, Any]
Resolve = Callable[..., Config]


@pytest.fixture(scope="module")
def base(resolved: Resolve) -> Config:
    return resolved("experiment=smoke", "hardware.fast=false")


def penalty(config: Config) -> None:
    from verl.trainer.ppo.core_algos import kl_penalty

    kl_penalty(torch.zeros(1, 2), torch.zeros(1, 2), config["actor_rollout_ref"]["actor"]["kl_loss_type"])


def estimator(config: Config) -> None:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn

    get_adv_estimator_fn(config["algorithm"]["adv_estimator"])


def optimizer(config: Config) -> None:
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config.optimizer import build_optimizer

    for section in (config["actor_rollout_ref"]["actor"], config["critic"]):
        optim = omega_conf_to_dataclass(OmegaConf.create(section["optim"]))
        build_optimizer([torch.nn.Parameter(torch.zeros(1))], optim)


def loader(config: Config) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    StatefulDataLoader([0], batch_size=config["data"]["train_batch_size"])


def engine(config: Config) -> None:
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    import experiments.verl_plugin.rollout.replica  # noqa: F401  registers hf

    assert config["actor_rollout_ref"]["rollout"]["name"] in RolloutReplicaRegistry._registry


def padding(config: Config) -> None:
    """Compute, as veRL does, to how many samples a batch is filled up; raises what veRL raises."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    trainer = SimpleNamespace(config=OmegaConf.create(verl_node(config)), use_critic=False, global_steps=1)
    size = config["data"]["train_batch_size"] * config["actor_rollout_ref"]["rollout"]["n"]
    _ = size % PPOTrainer._get_required_batch_multiple(trainer, 1)


def validation(config: Config) -> None:
    assert not verl_refuses(config)


def limit(config: Config) -> None:
    from verl.utils.seqlen_balancing import rearrange_micro_batches

    from tests.experiments.checks.test_verl_agrees import sequences

    rearrange_micro_batches(sequences(2, 48), config["actor_rollout_ref"]["actor"]["ppo_max_token_len_per_gpu"])


# By key: the values at which veRL stops (or torch, which gets them from veRL), with what it raises, and the code of it.
RATE: dict[Any, type[Exception]] = {-1e-6: ValueError, "fast": TypeError, None: TypeError}
STOPPED: dict[str, tuple[dict[Any, type[Exception]], Callable[[Config], None]]] = {
    "rollout.temperature": (dict.fromkeys((0, -1.0), AssertionError), validation),
    "rollout.n": ({0: ZeroDivisionError}, padding),
    "kl.type": (dict.fromkeys(("banana", "full"), NotImplementedError), penalty),
    "algorithm.adv_estimator": ({"banana": ValueError}, estimator),
    "data.train_batch_size": (dict.fromkeys((0, -1, 2.5), ValueError), loader),
    f"{A}.ppo_mini_batch_size": ({0: ZeroDivisionError}, padding),
    "hardware.gpus_per_node": ({0: ZeroDivisionError}, validation),
    "hardware.nodes": ({0: ZeroDivisionError}, validation),
    f"{R}.name": ({"banana": AssertionError}, engine),
    f"{A}.ppo_max_token_len_per_gpu": (dict.fromkeys((0, -1), AssertionError), limit),
    f"{A}.optim.lr": (RATE, optimizer),
    "critic.optim.lr": (RATE, optimizer),
}
VERLS = {  # our key: veRL's key for the same value
    "rollout.temperature": f"{R}.temperature",
    "rollout.n": f"{R}.n",
    "kl.type": f"{A}.kl_loss_type",
    "hardware.gpus_per_node": "trainer.n_gpus_per_node",
    "hardware.nodes": "trainer.nnodes",
}


@pytest.mark.parametrize("key", STOPPED)
def test_a_value_that_verl_stops_at(base: Config, key: str) -> None:
    values, code = STOPPED[key]
    dynamic = {f"{A}.use_dynamic_bsz": key.endswith("token_len_per_gpu")}
    right = with_values(base, {**dynamic, f"{R}.log_prob_use_dynamic_bsz": dynamic[f"{A}.use_dynamic_bsz"]})
    code(right)
    for value, raised in values.items():
        config = with_values(right, {key: value, VERLS.get(key, key): value})
        assert problems_of(config) != []
        with pytest.raises(raised):
            code(config)


def test_the_choices_are_those_of_verl(base: Config) -> None:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    assert set(ESTIMATORS) == set(ADV_ESTIMATOR_REGISTRY)
    for name in ENGINES:
        engine(with_values(base, {f"{R}.name": name}))
    for kind in KL_TYPES:
        penalty(with_values(base, {f"{A}.kl_loss_type": kind}))


# What veRL accepts silently


def test_a_group_of_one_has_no_mean_to_compare_with(base: Config) -> None:
    """The advantage is then the reward: REINFORCE without a baseline."""
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards, mask = torch.tensor([[0.0, 1.0], [0.0, 0.25]]), torch.ones(2, 2)
    alone, _ = compute_grpo_outcome_advantage(rewards, mask, np.array(["a", "b"]))
    assert alone[:, 0].tolist() == pytest.approx([1.0, 0.25])
    group, _ = compute_grpo_outcome_advantage(rewards, mask, np.array(["a", "a"]))
    assert group[:, 0].sum() == pytest.approx(0, abs=1e-5)
    assert len(group_problems(with_values(base, {f"{R}.n": 1}))) == 1 and group_problems(base) == []


def test_a_kl_term_that_counts_twice_is_a_notice(base: Config, capsys: pytest.CaptureFixture[str]) -> None:
    twice = with_values(base, {"algorithm.use_kl_in_reward": True, f"{A}.use_kl_loss": True})
    assert not verl_refuses(twice) and len(kl_problems(twice)) == 1
    assert "NOTICE: You have both enabled in-reward kl and kl loss." in capsys.readouterr().out


def test_a_coefficient_whose_switch_is_off_loads_no_reference(base: Config) -> None:
    from verl.trainer.ppo.utils import need_reference_policy

    off = {f"{A}.use_kl_loss": False, "algorithm.use_kl_in_reward": False}
    config = with_values(base, {**off, f"{A}.kl_loss_coef": 0.5, "algorithm.kl_ctrl.kl_coef": 0.5})
    assert not need_reference_policy(OmegaConf.create(verl_node(config))) and len(kl_problems(config)) == 2


IGNORED = [old for old, *_, does in LEGACY if does.startswith("ignores")]


@pytest.mark.parametrize("old", IGNORED)
def test_an_old_key_that_verl_does_not_read(base: Config, old: str) -> None:
    from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls
    from verl.utils.config import omega_conf_to_dataclass

    def read(config: Config) -> list[Any]:
        """Return what the workers read: the reward function, its manager and the gradients' limits."""
        tree = OmegaConf.create(verl_node(config))
        optims = [omega_conf_to_dataclass(part.optim) for part in (tree.actor_rollout_ref.actor, tree.critic)]
        return [get_custom_reward_fn(tree), resolve_reward_manager_cls(tree), *(optim.clip_grad for optim in optims)]

    config = with_values(base, {"reward.custom_reward_function.path": None})
    old_one = with_values(config, {old: 0.5 if old.endswith("clip") else "dapo"})
    assert len(legacy_problems(old_one)) == 1
    assert read(old_one) == read(config)
