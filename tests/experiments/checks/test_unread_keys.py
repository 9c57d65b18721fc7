"""checks/unread_keys.py: the KL term counts once, with a coefficient that veRL reads; unread old keys are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.checks.unread_keys import kl_problems, legacy_problems

Resolve = Callable[..., dict[str, Any]]
LOSS, REWARD = "actor_rollout_ref.actor.use_kl_loss", "algorithm.use_kl_in_reward"


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
@pytest.mark.parametrize("coef", ["0", "0.001", "0.01"])
def test_our_own_coefficient_is_never_a_problem(resolved: Resolve, algorithm: str, coef: str) -> None:
    assert kl_problems(resolved(f"algorithm={algorithm}", f"kl.coef={coef}")) == []


@pytest.mark.parametrize(
    ("algorithm", "override", "off"), [("grpo", f"{REWARD}=true", REWARD), ("ppo", f"{LOSS}=true", LOSS)]
)
def test_kl_counts_once(resolved: Resolve, algorithm: str, override: str, off: str) -> None:
    (problem,) = kl_problems(resolved(f"algorithm={algorithm}", override))
    assert (
        problem == f"{LOSS} and {REWARD} must not both be true, but are: the KL term would count twice; set {off}=false"
    )


@pytest.mark.parametrize(
    ("algorithm", "key", "switch"),
    [("grpo", "algorithm.kl_ctrl.kl_coef", REWARD), ("ppo", "actor_rollout_ref.actor.kl_loss_coef", LOSS)],
)
def test_a_coefficient_that_veRL_would_not_read(resolved: Resolve, algorithm: str, key: str, switch: str) -> None:
    (problem,) = kl_problems(resolved(f"algorithm={algorithm}", f"{key}=0.5"))
    assert problem == (
        f"{key} must be 0.001, its default, while {switch} is false, but is 0.5: veRL would not read it; "
        f"set {key}=0.001 (kl.coef sets the one that counts)"
    )


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "actor_rollout_ref.actor.ppo_micro_batch_size=4",
            "actor_rollout_ref.actor.ppo_micro_batch_size must be null, but is 4: veRL refuses the old key, which "
            "counted all GPUs together; set actor_rollout_ref.actor.ppo_micro_batch_size=null "
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2, which counts one GPU",
        ),
        (
            "custom_reward_function.path=mine.py",
            "custom_reward_function.path must be null, but is 'mine.py': veRL ignores the old key; "
            "set custom_reward_function.path=null reward.custom_reward_function.path=mine.py",
        ),
        (
            "actor_rollout_ref.actor.grad_clip=0.5",
            "actor_rollout_ref.actor.grad_clip must be 1.0, but is 0.5: veRL ignores the old key; "
            "set actor_rollout_ref.actor.grad_clip=1.0 actor_rollout_ref.actor.optim.clip_grad=0.5",
        ),
        (
            "critic.grad_clip=null",
            "critic.grad_clip must be 1.0, but is None: veRL ignores the old key; "
            "set critic.grad_clip=1.0 critic.optim.clip_grad=null",
        ),
    ],
)
def test_a_key_of_old_is_told_with_the_one_that_counts(resolved: Resolve, override: str, problem: str) -> None:
    assert legacy_problems(resolved("model=qwen2.5-3b", "hardware=a100x2", override)) == [problem]


def test_veRL_s_defaults_of_the_old_keys_are_no_problem(resolved: Resolve) -> None:
    assert legacy_problems(resolved()) == legacy_problems(resolved("experiment=article_ppo")) == []
