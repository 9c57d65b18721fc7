"""A temperature that moves with the steps, in real trainings: sampler and trainer move together, a resume goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.rundir import read_jsonl
from tests.e2e.training import Command, rows, train

ANNEALED = ("temperature=linear", "rollout.temperature=1.2", "temperature.steps=3", "tracking=none")
LEAN = ("trainer.val_before_train=false", "trainer.test_freq=-1")


@pytest.mark.parametrize(("fast", "lengths"), [("true", (2, 3)), ("false", (2,))])
def test_every_step_is_sampled_and_trained_at_its_own_temperature(
    folder: Path, fast: str, lengths: tuple[int, ...]
) -> None:
    place = folder / f"annealed-{fast}"
    for steps in lengths:
        done = train(place, f"trainer.total_training_steps={steps}", f"hardware.fast={fast}", *ANNEALED, *LEAN)
        assert done.code == 0, done.output
    assert [event["step"] for event in done.run.events() if event["event"] == "resumed"] == [*lengths[:-1]]
    history = rows(done.run)
    temperatures = [history[step]["rollout/temperature"] for step in range(1, lengths[-1] + 1)]
    assert temperatures == pytest.approx([1.2, 0.9, 0.6][: lengths[-1]])
    for step in range(1, lengths[-1] + 1):
        # Were the sampler's temperature another than the trainer's, their probabilities would differ by 0.01 and more.
        assert history[step]["training/rollout_probs_diff_mean"] < 1e-6
        assert history[step]["training/rollout_probs_diff_max"] < 2e-5  # float32, magnified by a low temperature
        # One update a step, so the policy that is updated is the one that sampled: every ratio is 1.
        assert history[step]["actor/ppo_kl"] == pytest.approx(0, abs=1e-5)
        assert history[step]["actor/pg_clipfrac"] == 0


def test_validation_is_sampled_as_ever(folder: Path, straight: Command) -> None:
    """The same weights, before the first step: from a temperature of 1.2 the same answers as from one of 1.0."""
    done = train(folder / "annealed-validated", "trainer.total_training_steps=1", "trainer.test_freq=-1", *ANNEALED)
    assert done.code == 0, done.output
    answers, expected = (read_jsonl(run.attempts()[0].validation / "0.jsonl")[0] for run in (done.run, straight.run))
    assert len(answers) == 2 * 8
    assert sorted((row["input"], row["output"]) for row in answers) == sorted(
        (row["input"], row["output"]) for row in expected
    )
    first, usual = (read_jsonl(run.attempts()[0].rollouts / "1.jsonl")[0] for run in (done.run, straight.run))
    assert {row["output"] for row in first} != {row["output"] for row in usual}, "while training is"
