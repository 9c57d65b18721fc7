"""Test how often a validation row is answered, and the metrics of several answers, against veRL's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from verl.trainer.ppo.metric_utils import process_validation_metrics

from experiments.pass_at import pass_at
from experiments.verl_plugin.rollout.agent_loop import GREEDY, ROLLOUT_N
from experiments.verl_plugin.training.trainer import AblationTrainer
from experiments.verl_plugin.training.validation import ValidationRows, pass_metrics, powers


def rows(agents: list[str]) -> dict[str, Any]:
    return {
        "raw_prompt": np.array(["p"] * len(agents), dtype=object),
        "agent_name": np.array(agents, dtype=object),
        "data_source": np.array(["t_greedy" if agent == GREEDY else "t" for agent in agents], dtype=object),
    }


def test_a_sampled_row_is_answered_n_times_and_a_greedy_row_once() -> None:
    loader = ValidationRows([rows(["single_turn_agent", GREEDY]), rows([GREEDY])], 4)
    assert len(loader) == 2
    seen = []
    for number, batch in enumerate(loader):
        seen += list(batch[ROLLOUT_N])
        batch["uid"] = np.array([f"{number}-{row}" for row in range(len(batch["raw_prompt"]))], dtype=object)
    assert seen == [4, 1, 1]
    assert loader.sources() == {"0-0": "t", "0-1": "t_greedy", "1-0": "t_greedy"}


def test_which_k() -> None:
    assert [powers(n) for n in (1, 2, 3, 4, 5, 8)] == [[], [2], [2, 3], [2, 4], [2, 4, 5], [2, 4, 8]]


def trainer() -> AblationTrainer:
    made = object.__new__(AblationTrainer)
    made._known_parts = {}
    made.config = SimpleNamespace()
    return made


def test_means_of_several_answers_are_verls_and_nothing_is_drawn_with_replacement() -> None:
    draw = np.random.default_rng(0)
    sources = ["t"] * 12 + ["t_greedy"] * 3
    uids = [f"r{row}" for row in range(3) for _ in range(4)] + [f"g{row}" for row in range(3)]
    accuracy = [float(x) for x in draw.integers(0, 2, 15)]
    score = [0.1 + 0.9 * x for x in accuracy]
    infos = {"reward": score, "score": score, "acc": accuracy}
    expected = {("t", f"r{row}"): 4 for row in range(3)} | {("t_greedy", f"g{row}"): 1 for row in range(3)}
    found = trainer()._val_metrics_update(sources, uids, infos, [2] * 15, expected_acc_counts=expected)
    theirs = process_validation_metrics(sources, uids, infos, expected_acc_counts=expected)
    assert found["val-core/t/acc/mean@4"] == pytest.approx(theirs["t"]["acc"]["mean@4"])
    assert found["val-aux/t/score/mean@4"] == pytest.approx(theirs["t"]["score"]["mean@4"])
    assert found["val-core/t_greedy/acc/mean@1"] == pytest.approx(theirs["t_greedy"]["acc"]["mean@1"])
    right = [sum(accuracy[row * 4 : row * 4 + 4]) for row in range(3)]
    assert found["val-aux/t/acc/pass@2"] == pytest.approx(np.mean([pass_at(4, int(c), 2) for c in right]))
    assert found["val-aux/t/acc/pass@4"] == pytest.approx(np.mean([c > 0 for c in right]))
    assert not [name for name in found if "best@" in name or "worst@" in name or "greedy/acc/pass" in name]


def test_an_answer_that_failed_counts_as_wrong() -> None:
    expected = {("t", "a"): 4, ("t", "b"): 4}
    infos = {"reward": [1.0] * 6, "acc": [1.0] * 6}
    found = trainer()._val_metrics_update(
        ["t"] * 6, ["a"] * 4 + ["b"] * 2, infos, [2] * 6, expected_acc_counts=expected
    )
    assert found["val-core/t/acc/mean@4"] == pytest.approx(0.75)
    assert found["val-aux/t/acc_success_only/mean@4"] == pytest.approx(1.0)
    assert found["val-aux/t/acc/pass@4"] == 1.0
    assert pass_metrics(["t"] * 4, ["a"] * 4, [1.0] * 4, expected)["val-aux/t/acc/pass@4"] == 0.5


def test_a_task_that_returns_its_answer_gets_verls_majority_vote() -> None:
    infos = {"reward": [1.0, 0.0, 0.0], "acc": [1.0, 0.0, 0.0], "pred": ["7", "8", "8"]}
    found = trainer()._val_metrics_update(["t"] * 3, ["a"] * 3, infos, [2] * 3, expected_acc_counts={("t", "a"): 3})
    assert "val-core/t/acc/maj@3/mean" in found


def test_accuracies_between_0_and_1_have_no_pass_at_k() -> None:
    assert pass_metrics(["t"] * 2, ["a"] * 2, [0.1, 1.0], {("t", "a"): 2}) == {}
