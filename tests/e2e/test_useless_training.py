"""A training that can't learn says so: it stops at numbers that are not finite, and warns of rewards of one value."""

from __future__ import annotations

from pathlib import Path

from experiments.config.verl import override
from tests.e2e.training import rows, train

LEAN = ("tracking=none", "trainer.save_freq=1", "trainer.val_before_train=false", "trainer.test_freq=-1")


def test_a_loss_that_is_not_finite_stops_the_run_and_a_key_lets_it_go_on(folder: Path) -> None:
    place, steep = folder / "steep", "actor_rollout_ref.actor.optim.lr=1e20"
    done = train(place, *LEAN, steep, "trainer.total_training_steps=3")
    assert done.code == 1 and done.run.state() == "failed"
    failed = done.run.events()[-1]
    assert failed["kind"] == "NaN loss" and " must be finite, but is nan in step 2" in failed["cause"]
    assert "watch.not_finite=go_on" in failed["remedy"] and failed["cause"] in done.output
    assert sorted(rows(done.run)) == [1] and done.run.checkpoint_step() == 1
    on = train(place, *LEAN, steep, "trainer.total_training_steps=3", "watch.not_finite=go_on")
    assert on.code == 0 and on.run.path == done.run.path, on.output
    assert sorted(rows(on.run)) == [1, 2, 3]


def test_rewards_that_never_differ_are_warned_of(folder: Path) -> None:
    place = folder / "never"
    place.mkdir()
    score = place / "score.py"
    score.write_text('def compute_score(*args, **others):\n    return {"score": 0.0, "acc": 0.0}\n')
    path = override("reward.custom_reward_function.path", str(score))
    done = train(place, path, "tracking=none", "trainer.save_freq=-1", "trainer.total_training_steps=2")
    assert done.code == 0, done.output
    warned = [(event["step"], event["text"]) for event in done.run.events() if event["event"] == "warned"]
    assert [step for step, _ in warned] == [0, 1], "each once"
    assert "all 40 responses of the first validation have the same reward, 0" in warned[0][1]
    assert "in no group do the responses have different rewards (all are 0): the advantages are 0" in warned[1][1]
    assert all(text in done.output for _, text in warned)
    assert rows(done.run)[1]["critic/advantages/max"] == 0 == rows(done.run)[1]["critic/advantages/min"]
