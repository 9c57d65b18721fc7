"""What a training may ask of veRL's lists: estimators, losses, sampling, rows, and what it resumes from.

tests/e2e/test_every_choice.py trains each value that is accepted here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.checks.algorithms import FILTER, REJECTIONS, UNSERVED, algorithm_problems
from experiments.checks.batch_sizes import group_problems
from experiments.checks.training_rules import AGGREGATIONS, LOSS_MODES, REWARD_MANAGERS, SCHEDULES, VALIDATION
from experiments.checks.value_rules import ESTIMATORS, faults
from experiments.values import at
from experiments.verl_keys import ACTOR, GROUPED, ROLLOUT
from tests.experiments.right_config import Make, problems_of, the_problem, with_values

CORRECTION = "algorithm.rollout_correction"
REFUSED: dict[str, tuple[Any, ...]] = {
    f"{ROLLOUT}.top_p": (0, 1.7, -1, "all"),
    f"{ROLLOUT}.top_k": (0, -2, 1.5),
    f"{ROLLOUT}.do_sample": (False,),
    f"{ROLLOUT}.ignore_eos": ("no",),
    f"{VALIDATION}.temperature": (-1,),
    f"{VALIDATION}.top_p": (0, 1.7),
    f"{VALIDATION}.top_k": (0,),
    f"{VALIDATION}.n": (0,),
    f"{VALIDATION}.do_sample": (False,),
    f"{ACTOR}.policy_loss.loss_mode": ("bypass_mode", "ppo", None),
    f"{ACTOR}.loss_agg_mode": ("mean", None),
    f"{ACTOR}.loss_scale_factor": (0,),
    f"{ACTOR}.clip_ratio": (-0.1,),
    f"{ACTOR}.clip_ratio_low": (-0.1,),
    f"{ACTOR}.clip_ratio_high": (None,),
    f"{ACTOR}.clip_ratio_c": (1.0,),
    f"{ACTOR}.entropy_coeff": (None,),
    f"{ACTOR}.ppo_epochs": (0,),
    f"{ACTOR}.optim.lr_scheduler_type": ("linear",),
    f"{ACTOR}.checkpoint.save_contents": (["model"], "model"),
    f"{ACTOR}.checkpoint.load_contents": (["model"],),
    f"{ACTOR}.checkpoint.async_save": (True,),
    "algorithm.gamma": (1.1, -1),
    "algorithm.lam": (2,),
    "reward.reward_manager.name": ("remote", "banana"),
    "data.val_max_samples": (16, 0),
    "data.train_max_samples": (0, -2, 8),
    "data.validation_shuffle": (True,),
    "data.val_batch_size": (0,),
    "data.gen_batch_size": (0, 7),
    "data.shuffle": ("yes",),
    "data.seed": (-1,),
    "trainer.val_only": (True,),
    "trainer.use_v1": (False,),
    "trainer.v1.trainer_mode": ("sync", "separate_async"),
    "trainer.critic_warmup": (-1, 2),
    "trainer.resume_mode": ("disable", "never"),
    "trainer.resume_from_path": ("/runs/a/checkpoints/global_step_10",),
    "algorithm.use_pf_ppo": (True,),
    "distillation.enabled": (True,),
    f"{CORRECTION}.rollout_is": ("batch",),
    f"{CORRECTION}.rollout_rs": ("token_k4", ["token_k1"]),
    f"{CORRECTION}.bypass_mode": (True,),
    f"{FILTER}.enable": ("yes",),
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_value_that_would_train_something_else_is_refused(make: Make, key: str) -> None:
    right = make()
    assert problems_of(right) == [], "the shipped values are right"
    for value in REFUSED[key]:
        found = problems_of(with_values(right, {key: value}))
        assert len(found) == 1, (value, found)
        shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
        assert " must " in found[0] and (str(value) in found[0] or str(shown) in found[0])
        assert key.rsplit(".", 1)[-1] in found[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_is_served_or_refused(make: Make, name: str) -> None:
    config = with_values(make(), {"algorithm.adv_estimator": name})
    assert len(algorithm_problems(config)) == (name in UNSERVED)
    alone = with_values(config, {"rollout.n": 1, f"{ROLLOUT}.n": 1})
    assert len(group_problems(alone)) == (name in GROUPED)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "gae"])
def test_verl_serves_the_same_estimators(name: str) -> None:
    """What _compute_advantage of veRL 0.9.1's trainer hands to an estimator, and whether that is enough for it."""
    from omegaconf import OmegaConf
    from verl.protocol import DataProto
    from verl.trainer.ppo.ray_trainer import compute_advantage

    def advantages(groups: list[str]) -> torch.Tensor:
        rewards = torch.zeros(4, 3)
        rewards[:, -1] = torch.tensor([1.0, 0.0, 0.5, 0.0])
        tensors = {
            "token_level_rewards": rewards,
            "response_mask": torch.ones(4, 3),
            "old_log_probs": torch.zeros(4, 3),
        }
        data = DataProto.from_dict(tensors, non_tensors={"uid": np.array(groups, dtype=object)})
        config = OmegaConf.create({"gamma": 1.0, "norm_adv_by_std_in_grpo": True, "gdpo_reward_keys": ["acc"]})
        return compute_advantage(data, adv_estimator=name, config=config).batch["advantages"]

    if name in UNSERVED:
        with pytest.raises((AssertionError, TypeError, KeyError)):
            advantages(["a", "a", "b", "b"])
        return
    assert advantages(["a", "a", "b", "b"]).abs().sum() > 0
    if name in GROUPED:
        try:
            alone = advantages(["a", "b", "c", "d"])
        except ValueError:
            return
        together = advantages(["a", "a", "b", "b"])
        assert not torch.allclose(alone, together), "what it compares with is the group"


def test_the_lists_are_those_of_verl() -> None:
    from verl.experimental.reward_loop.reward_manager.registry import REWARD_MANAGER
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss
    from verl.trainer.ppo.rollout_corr_helper import SUPPORTED_ROLLOUT_RS_OPTIONS

    assert {*LOSS_MODES, "bypass_mode"} == set(POLICY_LOSS_REGISTRY)
    assert set(REJECTIONS) == SUPPORTED_ROLLOUT_RS_OPTIONS
    assert {*REWARD_MANAGERS, "gdpo", "remote", "rate_limited"} == set(REWARD_MANAGER)
    for mode in AGGREGATIONS:
        assert agg_loss(torch.ones(2, 3), torch.ones(2, 3), mode, batch_num_tokens=6, global_batch_size=2) > 0


def test_a_value_at_which_verls_config_stops() -> None:
    from verl.workers.config.optimizer import FSDPOptimizerConfig

    for name in SCHEDULES:
        FSDPOptimizerConfig(lr=0.1, lr_scheduler_type=name)
    with pytest.raises(AssertionError):
        FSDPOptimizerConfig(lr=0.1, lr_scheduler_type="linear")


def test_redrawn_samples_get_each_others_advantages() -> None:
    """veRL's trainer stores the advantages by the batch's keys, which are not redrawn with the samples."""
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import compute_pf_ppo_reweight_data

    scores = torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    data = DataProto.from_dict({"token_level_scores": scores, "advantages": scores.clone()})
    assert compute_pf_ppo_reweight_data(data, "pow", 2.0).batch["advantages"].flatten().tolist() == [1.0] * 4


def test_a_loss_that_asks_for_a_value_of_its_own(make: Make) -> None:
    dro = with_values(make(), {f"{ACTOR}.policy_loss.loss_mode": "dro"})
    key = f"{ACTOR}.policy_loss.dro_beta"
    assert the_problem(dro) == f"{key} must be a number above 0, but is None; try 0.1, which loss_mode=dro asks for"
    assert problems_of(with_values(dro, {key: 0.1})) == []
    sapo = with_values(make(), {f"{ACTOR}.policy_loss.loss_mode": "sapo", f"{ACTOR}.tau_neg": 0})
    assert list(faults(sapo)) == [f"{ACTOR}.tau_neg"]


def test_the_validation_is_the_same_for_every_seed(make: Make) -> None:
    """veRL draws data.val_max_samples rows by data.seed."""
    chosen = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)  # verl/utils/dataset/rl_dataset.py, _read_files_and_tokenize
        chosen.append(sorted(rng.choice(512, size=16, replace=False)))
    assert chosen[0] != chosen[1]
    assert "set task.test_size" in the_problem(make(data__val_max_samples=16))


def test_fewer_rows_than_a_batch(make: Make) -> None:
    assert the_problem(make(data__train_max_samples=8)) == (
        "data.train_max_samples must be at least data.train_batch_size=32, but is 8: no batch would be whole; "
        "set data.train_max_samples=32, or a smaller data.train_batch_size"
    )
    assert problems_of(make(data__train_max_samples=32)) == []


def test_a_policy_that_is_never_trained(make: Make) -> None:
    assert "critic_warmup must be 0 without a critic" in the_problem(make(trainer__critic_warmup=3))
    ppo = {"algorithm.adv_estimator": "gae", f"{ACTOR}.use_kl_loss": False}
    assert problems_of(with_values(make(trainer__critic_warmup=3), ppo)) == []
    assert "the policy would never be trained" in the_problem(with_values(make(trainer__critic_warmup=51), ppo))


FILTERED = {f"{FILTER}.enable": True}


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, None),
        ({f"{FILTER}.metric": None}, "metric"),
        ({f"{FILTER}.max_inflight_gen_batches": 0}, "max_inflight"),
        ({f"{FILTER}.max_num_gen_batches": 10}, "does not read it"),
        ({"rollout.n": 1, f"{ROLLOUT}.n": 1, "algorithm.adv_estimator": "reinforce_plus_plus"}, "never filtered"),
    ],
)
def test_a_filter_of_groups(make: Make, values: dict[str, Any], word: str | None) -> None:
    found = algorithm_problems(with_values(make(), {**FILTERED, **values}))
    assert len(found) == (word is not None) and all(str(word) in problem for problem in found)


def test_a_coefficient_that_adapts_is_in_no_checkpoint(make: Make) -> None:
    config = with_values(make(), {"algorithm.kl_ctrl.type": "adaptive"})
    assert problems_of(config) == [], "the KL term is in the loss: nothing adapts"
    ppo = {"algorithm.adv_estimator": "gae", f"{ACTOR}.use_kl_loss": False, "algorithm.use_kl_in_reward": True}
    assert "algorithm.kl_ctrl.type must be fixed, but is 'adaptive'" in the_problem(with_values(config, ppo))


def checkpoint(folder: Path, ranks: int = 1, parts: tuple[str, ...] = ("actor",)) -> Path:
    for part in parts:
        (folder / part).mkdir(parents=True)
        for rank in range(ranks):
            for kind in ("model", "optim", "extra_state"):
                (folder / part / f"{kind}_world_size_{ranks}_rank_{rank}.pt").touch()
    return folder


def from_path(make: Make, path: Any, **values: Any) -> list[str]:
    return problems_of(make(trainer__resume_mode="resume_path", trainer__resume_from_path=path, **values))


def test_a_checkpoint_to_start_from_is_whole_and_before_the_last_step(make: Make, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "global_step_10")
    assert from_path(make, str(folder)) == []
    for path, word in ((None, "must be a checkpoint's folder"), (str(tmp_path), "its name is another")):
        (problem,) = from_path(make, path)
        assert word in problem
    (problem,) = from_path(make, str(tmp_path / "global_step_7"))
    assert "there is no such folder" in problem
    (problem,) = from_path(make, str(checkpoint(tmp_path / "global_step_50")))
    assert "nothing would be trained" in problem
    (problem,) = from_path(make, str(checkpoint(tmp_path / "two" / "global_step_10", ranks=2)))
    assert "no model_world_size_1_rank_0.pt" in problem
    ppo = {"algorithm__adv_estimator": "gae", "actor_rollout_ref__actor__use_kl_loss": False}
    (problem,) = from_path(make, str(folder), **ppo)
    assert "critic has no model" in problem
    assert at(make(), "trainer.resume_mode") == "auto"
