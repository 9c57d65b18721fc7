"""A temperature that changes with the steps, in real trainings: sampler and trainer agree on it, after a resume too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.store.files import read_jsonl
from tests.e2e.training import Command, rows


def follows_its_schedule(run: Command, steps: int) -> None:
    history = rows(run.run)
    temperatures = [history[step]["rollout/temperature"] for step in range(1, steps + 1)]
    assert temperatures == pytest.approx([1.2, 0.9, 0.6][:steps])
    for step in range(1, steps + 1):
        # If the sampler and the trainer had different temperatures, their probabilities would differ by 0.01 and more.
        assert history[step]["training/rollout_probs_diff_mean"] < 1e-6
        assert history[step]["training/rollout_probs_diff_max"] < 2e-5  # float32, magnified by a low temperature
        # There is one update per step, so the policy that is updated is the one that sampled: every ratio is 1.
        assert history[step]["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
        assert history[step]["actor/pg_clipfrac"] == 0
        assert history[step]["actor/grad_norm"] > 0


def test_every_step_is_sampled_and_trained_at_its_own_temperature(own: Callable[[str], Command]) -> None:
    annealed = own("true")
    assert [event["step"] for event in annealed.run.events() if event["event"] == "resumed"] == [2]
    follows_its_schedule(annealed, 3)


def test_on_the_plain_path_too(own: Callable[[str], Command]) -> None:
    follows_its_schedule(own("false"), 2)


def test_validation_is_sampled_as_ever(own: Callable[[str], Command], straight: Command) -> None:
    """Before the first step the weights are the same: at rollout temperatures 1.2 and 1.0 the answers are equal."""
    annealed = own("true")
    answers, expected = (
        read_jsonl(run.attempts()[0].validation / "0.jsonl")[0] for run in (annealed.run, straight.run)
    )
    assert len(answers) == (4 + 1) * 8, "four sampled and a greedy one to each problem"
    assert sorted((row["input"], row["output"]) for row in answers) == sorted(
        (row["input"], row["output"]) for row in expected
    )
    first, usual = (read_jsonl(run.attempts()[0].rollouts / "1.jsonl")[0] for run in (annealed.run, straight.run))
    assert {row["output"] for row in first} != {row["output"] for row in usual}, "while training is"
