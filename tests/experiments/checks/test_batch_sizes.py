"""checks/batch_sizes.py accepts sizes that divide; its suggestions lead to such sizes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.checks.batch_sizes import batch_problems
from tests.experiments.right_config import (
    DYNAMIC,
    Make,
    problems_of,
    sizes,
    suggestion,
    the_problem,
    with_values,
)

MINI = "actor_rollout_ref.actor.ppo_mini_batch_size"
ACTOR = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"
ROLLOUT = "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"
REF = "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"
CRITIC = "critic.ppo_micro_batch_size_per_gpu"


PADDED = ": veRL would fill the last mini-batch with padding"


def test_a_group_of_one_is_refused_for_grpo_only(make: Make) -> None:
    assert the_problem(sizes(make, n=1)) == (
        "rollout.n must be at least 2 with GRPO, but is 1: a group of one has no mean to compare with "
        "(it would silently be REINFORCE); set rollout.n=5 or algorithm=ppo"
    )
    ppo = problems_of(sizes(make, n=1, algorithm__adv_estimator="gae"))
    assert not any("GRPO" in problem for problem in [*ppo, *problems_of(sizes(make, n=2))])


@pytest.mark.parametrize(
    "chosen, problem",
    [
        (
            {"batch": 30, "n": 5, "mini": 30, "gpus": 4},
            "data.train_batch_size x rollout.n must be a multiple of the 4 GPUs, but is 30 x 5; "
            "set data.train_batch_size=32",
        ),
        ({"batch": 8}, f"{MINI} must be at most data.train_batch_size=8, but is 16; set {MINI}=8"),
        ({"batch": 40}, f"data.train_batch_size must be a multiple of {MINI}=16, but is 40{PADDED}; set {MINI}=10"),
        (
            {"batch": 10**12, "mini": 3},
            f"data.train_batch_size must be a multiple of {MINI}=3, but is {10**12}{PADDED}; set {MINI}=2",
        ),
        (
            {"batch": 13, "mini": 5},
            f"data.train_batch_size must be a multiple of {MINI}=5, but is 13{PADDED}; set {MINI}=1",
        ),
        (
            {"batch": 6, "n": 5, "mini": 3, "gpus": 2},
            f"{MINI} x rollout.n must be a multiple of the 2 GPUs, but is 3 x 5; set {MINI}=2",
        ),
    ],
)
def test_batches_that_do_not_divide(make: Make, chosen: dict[str, int], problem: str) -> None:
    assert batch_problems(sizes(make, **chosen, **DYNAMIC)) == [problem]


@pytest.mark.parametrize(
    "values, problem",
    [
        ({ACTOR: 32}, f"{ACTOR} must divide the 80 samples of a GPU, but is 32; set {ACTOR}=20"),
        ({ACTOR: 100}, f"{ACTOR} must divide the 80 samples of a GPU, but is 100; set {ACTOR}=80"),
        ({ROLLOUT: 64}, f"{ROLLOUT} must divide the 160 samples of a GPU, but is 64; set {ROLLOUT}=40"),
        ({REF: 7}, f"{REF} must divide the 160 samples of a GPU, but is 7; set {REF}=5"),
        (
            {CRITIC: 9, "algorithm.adv_estimator": "gae"},
            f"{CRITIC} must divide the 80 samples of a GPU, but is 9; set {CRITIC}=8",
        ),
    ],
)
def test_micro_batches_that_do_not_divide(make: Make, values: dict[str, Any], problem: str) -> None:
    assert the_problem(with_values(make(), values)) == problem


@pytest.mark.parametrize("key", [ACTOR, ROLLOUT, REF, CRITIC])
@pytest.mark.parametrize("value", [0, -2, 2.5, "four", None])
def test_a_micro_batch_that_is_no_size(make: Make, key: str, value: Any) -> None:
    config = with_values(make(algorithm__adv_estimator="gae"), {key: value})
    assert the_problem(config).startswith(f"{key} must ")


@pytest.mark.parametrize(
    "values",
    [
        {
            **dict.fromkeys((ACTOR, ROLLOUT), 7),
            "actor_rollout_ref.actor.use_dynamic_bsz": True,
            "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": True,
        },
        {REF: 7, "actor_rollout_ref.ref.log_prob_use_dynamic_bsz": True},
        {REF: 7, "actor_rollout_ref.actor.use_kl_loss": False},
        {CRITIC: 7},
    ],
)
def test_a_micro_batch_that_nobody_uses_may_be_anything(make: Make, values: dict[str, Any]) -> None:
    """veRL does not use it when it cuts by tokens; there is no reference model without a KL term, no critic in GRPO."""
    assert problems_of(with_values(make(), values)) == []


size = st.integers(1, 40)


@given(
    batch=size,
    n=st.integers(1, 9),
    mini=size,
    gpus=st.sampled_from([1, 2, 3, 4, 8]),
    micro=st.lists(size, min_size=4, max_size=4),
)
def test_following_the_suggestions_leads_to_a_good_config(
    make: Make, batch: int, n: int, mini: int, gpus: int, micro: list[int]
) -> None:
    """Following a suggestion removes its problem; after a few suggestions no problem is left."""
    config = sizes(make, batch, n, mini, gpus, algorithm__adv_estimator="grpo")
    config = with_values(config, dict(zip((ACTOR, ROLLOUT, REF, CRITIC), micro, strict=True)))
    for _ in range(12):
        found = batch_problems(config)
        if not found:
            break
        values = suggestion(found[0])
        config = with_values(
            config, {**values, **({"actor_rollout_ref.rollout.n": 5} if "rollout.n" in values else {})}
        )
        assert found[0] not in batch_problems(config)
    assert batch_problems(config) == []
    # veRL's workers assert these, minutes after the start:
    batch, n = config["data"]["train_batch_size"], config["rollout"]["n"]
    mini = config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"]
    assert batch * n % gpus == 0 and mini * n % gpus == 0 and batch % mini == 0
    assert mini * n // gpus % config["actor_rollout_ref"]["actor"]["ppo_micro_batch_size_per_gpu"] == 0
    assert batch * n // gpus % config["actor_rollout_ref"]["ref"]["log_prob_micro_batch_size_per_gpu"] == 0
