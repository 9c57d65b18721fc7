"""Every file of conf/algorithm computes what its paper says, by veRL's own functions; figures know it by its name.

The numbers of ADVANTAGES and LOSSES were worked out by hand from the formulas of the papers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from analysis.records.knobs import ALGORITHMS
from experiments.algorithm_names import algorithm_of
from experiments.checks.batch_sizes import group_problems
from experiments.config.choices import options
from experiments.config.unread import unread_problem
from experiments.config.verl import verl_node
from experiments.project import CONFIG_DIR
from experiments.values import flatten
from tests.experiments.conftest import Ask
from tests.experiments.right_config import Config, Make, problems_of, with_values

Resolve = Callable[..., dict[str, Any]]
NAMES = options("algorithm")
ACTOR = "actor_rollout_ref.actor"
UNGROUPED = ("ppo", "reinforce_plus_plus")

# Two groups of three responses: their rewards and their lengths in tokens.
REWARDS, LENGTHS = (1.0, 0.0, 0.0, 1.0, 1.0, 0.0), (3, 1, 2, 1, 1, 2)
GRPO = (1.154699, -0.577349, -0.577349, 0.577349, 0.577349, -1.154699)  # over the standard deviation, sqrt(1/3)
WHITENED = (0.948683, -0.948683, -0.948683, 0.948683, 0.948683, -0.948683)  # five tokens of ten have a reward of 1
ADVANTAGES = {
    **dict.fromkeys(("grpo", "dapo", "gspo", "cispo", "sapo", "clip_cov", "kl_cov"), GRPO),
    "ppo": WHITENED,  # of a critic that says 0 everywhere
    "reinforce_plus_plus": WHITENED,
    "dr_grpo": (2 / 3, -1 / 3, -1 / 3, 1 / 3, 1 / 3, -2 / 3),
    "rloo": (1, -0.5, -0.5, 0.5, 0.5, -1),
    "opo": (0.5, -0.5, -0.5, 0.5, 0.5, -0.5),  # the mean weighted by length is 3/6 in both groups
    "gpg": (4 / 3, -2 / 3, -2 / 3, 2 / 3, 2 / 3, -4 / 3),  # three of six rewards are not 0: twice Dr. GRPO's
    "grpo_passk": (1, 0, 0, 0, 0, 0),  # in the second group the two best are equal
    # Dr. GRPO's, minus their mean over the ten tokens (1/30), over their standard deviation (0.554443)
    "reinforce_plus_plus_baseline": (1.142276, -0.661324, -0.661324, 0.541084, 0.541084, -1.262529),
}

# Two responses with the advantages 1 and -1, of two and three tokens; the policy that sampled gave each token 0.4.
RATIOS = ((1.5, 1.0), (0.5, 1.25, 1.0))
CLIPPED = 0.17  # (-1.2 - 1 + 0.8 + 1.25 + 1) / 5 tokens
LOSSES = {
    **dict.fromkeys(
        ("grpo", "ppo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "opo", "grpo_passk"), CLIPPED
    ),
    "dapo": 0.154,  # the first token counts 1.28
    **dict.fromkeys(("dr_grpo", "rloo"), 0.10625),  # (-2.2 + 3.05) / 2 responses / 4, the longest there may be
    "gspo": -0.00035,  # the responses' ratios are 1.22 and 0.85: (-1.0004 + 0.9997) / 2 responses
    "cispo": -0.180983,  # no ratio is above 5: -1.5 ln 0.6 - ln 0.4 + 0.5 ln 0.2 + 1.25 ln 0.5 + ln 0.4, over 5 tokens
    "gpg": -0.358352,  # (-ln 0.6 - ln 0.4 + ln 0.2 + ln 0.5 + ln 0.4) / 5
    "sapo": -0.210120,  # (-(4 s(0.5) + 2) / 2 + (s(-0.525) + s(0.2625) + 0.5) / 3 x 4 / 1.05) / 2, s: the sigmoid
    "clip_cov": 0.05,  # no token's covariance is above 1, no ratio above 2: (-1.5 - 1 + 0.5 + 1.25 + 1) / 5
    "kl_cov": 0.188629,  # the third token's covariance is the highest, it pays |ln 0.5|
}


def advantages(config: dict[str, Any], kl: float = 0.0) -> list[list[float]]:
    """Return each response's advantages, as veRL's trainer computes them; `kl`: a token's log-prob minus the base's."""
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import get_kl_controller
    from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage

    mask = (torch.arange(4)[None, :] < torch.tensor(LENGTHS)[:, None]).float()
    scores = torch.zeros(6, 4)
    scores[range(6), [length - 1 for length in LENGTHS]] = torch.tensor(REWARDS)
    zero = torch.zeros(6, 4)
    tensors = {"token_level_scores": scores, "response_mask": mask, "old_log_probs": zero, "ref_log_prob": zero - kl}
    data = DataProto.from_dict({**tensors, "values": zero}, non_tensors={"uid": np.array([*"aaabbb"], dtype=object)})
    algorithm: Any = OmegaConf.create(config["algorithm"])
    if algorithm.use_kl_in_reward:
        data, _ = apply_kl_penalty(data, get_kl_controller(algorithm.kl_ctrl), algorithm.kl_penalty)
    else:
        data.batch["token_level_rewards"] = scores
    found = compute_advantage(
        data,
        adv_estimator=algorithm.adv_estimator,
        gamma=algorithm.gamma,
        lam=algorithm.lam,
        norm_adv_by_std_in_grpo=algorithm.norm_adv_by_std_in_grpo,
        config=algorithm,
    ).batch["advantages"]
    return [row[:length].tolist() for row, length in zip(found, LENGTHS, strict=True)]


def loss(config: dict[str, Any]) -> float:
    """Return the loss of RATIOS without its KL term, as veRL's worker computes it for a mini-batch."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.utils.config import omega_conf_to_dataclass

    actor: Any = omega_conf_to_dataclass(OmegaConf.create(config["actor_rollout_ref"]["actor"]))
    actor.global_batch_info.update(
        dp_size=1, batch_num_tokens=5, global_batch_size=2, loss_scale_factor=actor.loss_scale_factor
    )
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    ratios = torch.tensor([[*RATIOS[0], 1.0], RATIOS[1]])
    old = torch.full((2, 3), math.log(0.4))
    signs = torch.tensor([[1.0] * 3, [-1.0] * 3]) * mask
    compute = get_policy_loss_fn(actor.policy_loss.loss_mode)
    value, _ = compute(old, old + ratios.log(), signs, mask, loss_agg_mode=actor.loss_agg_mode, config=actor)
    return float(value)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_advantages_are_the_papers(resolved: Resolve, name: str) -> None:
    for own, wanted in zip(advantages(resolved(f"algorithm={name}")), ADVANTAGES[name], strict=True):
        assert own == pytest.approx([wanted] * len(own), abs=2e-5)


def test_the_loss_is_the_papers(resolved: Resolve, name: str) -> None:
    assert loss(resolved(f"algorithm={name}", "data.max_response_length=4")) == pytest.approx(LOSSES[name], abs=2e-6)


def test_a_kl_term_in_the_reward_lowers_it(resolved: Resolve) -> None:
    """Each token is 0.1 above the reference in log-prob, and kl.coef is 1."""
    one, *_ = advantages(resolved("algorithm=rloo", "kl.coef=1"), kl=0.1)
    assert one == pytest.approx([0.85] * 3), "0.7 against the mean of -0.1 and -0.2"
    one, *_ = advantages(resolved("algorithm=reinforce_plus_plus", "kl.coef=1"), kl=0.1)
    returns = [0.7, 0.8, 0.9, -0.1, -0.2, -0.1, 0.9, 0.9, -0.2, -0.1]  # at each token, of what is still to come
    assert one == pytest.approx(list((np.array(returns[:3]) - np.mean(returns)) / np.std(returns, ddof=1)))


def test_the_tokens_of_the_strongest_covariance_leave_the_update_of_clip_cov(resolved: Resolve) -> None:
    key = f"{ACTOR}.policy_loss.clip_cov_lb=0.52"
    assert loss(resolved("algorithm=clip_cov", key)) == pytest.approx(-0.05), "without the third token's 0.5"


def test_the_dapo_penalty_begins_at_four_fifths_of_the_longest_length(resolved: Resolve) -> None:
    from types import SimpleNamespace

    from verl.trainer.ppo.reward import load_reward_manager

    config = resolved("algorithm=dapo", "data.max_response_length=10")
    tokenizer: Any = SimpleNamespace(decode=lambda ids, **more: "<answer> 1 + 2 </answer>")
    manager = load_reward_manager(OmegaConf.create(verl_node(config)), tokenizer)
    manager.loop = asyncio.new_event_loop()

    def score(length: int) -> float:
        from verl import DataProto

        truth = {"ground_truth": {"target": 3, "numbers": [1, 2]}}
        data = DataProto.from_dict(
            {"responses": torch.ones(1, 10), "attention_mask": (torch.arange(12) < 2 + length).long()[None]},
            non_tensors={
                "data_source": np.array(["countdown"], dtype=object),
                "reward_model": np.array([truth], dtype=object),
            },
        )
        return float(manager.loop.run_until_complete(manager.run_single(data))["reward_score"])

    assert [score(length) for length in (1, 8, 9, 10)] == [1, 1, 0.5, 0]
    manager.loop.close()


def test_figures_know_every_algorithm_by_its_name(resolved: Resolve, name: str) -> None:
    assert name in ALGORITHMS and algorithm_of(dict(flatten(resolved(f"algorithm={name}")))) == name


def test_every_key_of_its_file_is_read(resolved: Resolve, name: str) -> None:
    config = resolved(f"algorithm={name}")
    file = yaml.safe_load((CONFIG_DIR / "algorithm" / f"{name}.yaml").read_text())
    keys = [key for key, _ in flatten(file) if key != "defaults"]
    assert keys and [problem for key in keys if (problem := unread_problem(key, config))] == []


def test_a_group_of_one_is_refused_where_groups_are_compared(resolved: Resolve, name: str) -> None:
    found = group_problems(resolved(f"algorithm={name}", "rollout.n=1"))
    assert bool(found) == (name not in UNGROUPED)
    for problem in found:
        assert problem.startswith("rollout.n must be at least 2 with ") and "; set rollout.n=5 or algorithm=" in problem


def startable(resolved: Resolve, make: Make, algorithm: str) -> Config:
    """Return an algorithm's config with a model and data that there are."""
    config, files = resolved(f"algorithm={algorithm}"), make()
    values = {f"data.{name}": files["data"][name] for name in ("train_files", "val_files")}
    return with_values(config, {**values, "model.path": files["model"]["path"]})


DAPO = "reward.reward_kwargs"


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "problem"),
    [
        ("ppo", "critic.enable", False, "critic.enable must be null or true with algorithm.adv_estimator=gae"),
        ("dapo", f"{DAPO}.max_resp_len", 64, f"{DAPO}.max_resp_len must be data.max_response_length=128, but is 64"),
        ("dapo", f"{DAPO}.overlong_buffer_cfg.len", 0, "len must be a whole number from 1 to data.max_response_le"),
        ("dapo", f"{DAPO}.overlong_buffer_cfg.len", 129, "=128, but is 129; try 25"),
        ("dapo", f"{DAPO}.overlong_buffer_cfg.penalty_factor", -1, "penalty_factor must be a number above 0"),
        ("dapo", f"{DAPO}.overlong_buffer_cfg.log", True, "log must be false, but is True"),
        ("clip_cov", f"{ACTOR}.policy_loss.clip_cov_ratio", 0, "clip_cov_ratio must be a number above 0 and at most 1"),
        ("kl_cov", f"{ACTOR}.policy_loss.kl_cov_ratio", 2, "kl_cov_ratio must be a number above 0 and at most 1"),
        ("kl_cov", f"{ACTOR}.policy_loss.ppo_kl_coef", -1, "ppo_kl_coef must be a number of at least 0"),
        ("rloo", f"{ACTOR}.use_kl_loss", True, "would count twice; set actor_rollout_ref.actor.use_kl_loss=false"),
        ("gspo", "algorithm.use_kl_in_reward", True, ""),
    ],
)
def test_what_an_algorithm_needs_is_asked_for(
    resolved: Resolve, make: Make, algorithm: str, key: str, value: Any, problem: str
) -> None:
    found = problems_of(with_values(startable(resolved, make, algorithm), {key: value}))
    assert len(found) == bool(problem) and all(problem in text for text in found), found


def test_dynamic_sampling_looks_at_a_part_that_the_reward_returns(ask: Ask, tmp_path: Any) -> None:
    from experiments.errors import UserError

    reward = tmp_path / "reward.py"
    reward.write_text("def compute_score(solution_str, **others):\n    return {'score': 0.5, 'right': 0}\n")
    own = f"algorithm=dapo reward.custom_reward_function.path={reward} ~reward.custom_reward_function.reward_kwargs"
    with pytest.raises(UserError) as error:
        ask(own)
    (problem,) = error.value.problems
    assert "must return a number as 'acc' with algorithm.filter_groups.metric=acc, but returns {'score'" in problem
    assert problem.endswith("or set algorithm.filter_groups.metric=reward")
    (run,) = ask(f"{own} algorithm.filter_groups.metric=right")
    assert run.action == "start"
