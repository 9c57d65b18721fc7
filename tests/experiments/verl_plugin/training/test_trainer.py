"""Test which fields of a batch the ablation trainer lets its workers fetch; tests/e2e has whole trainings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from experiments.verl_plugin.training import trainer as module
from experiments.verl_plugin.training.kept_forward import KEEP_FORWARD
from experiments.verl_plugin.training.trainer import READ_ACTOR, READ_CRITIC, READ_FORWARD, AblationTrainer

SCORED = {"uid", "extra_fields", "rm_scores", "reward_model", "num_turns", "rollout_log_probs", "returns"}
STORED = sorted(READ_ACTOR - {"rollout_is_weights"} | SCORED)
CALLS = {
    "_compute_old_log_prob": READ_FORWARD,
    "_compute_ref_log_prob": READ_FORWARD,
    "_compute_values": READ_FORWARD,
    "_update_critic": READ_CRITIC - {"values", "rollout_is_weights"},
    "_update_actor": READ_ACTOR - {"rollout_is_weights"},
}


@pytest.mark.parametrize(("call", "read"), CALLS.items())
def test_a_worker_fetches_what_it_reads_of_what_is_stored(
    call: str, read: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def seen(batch: Any) -> Any:
        assert bool(batch.extra_info.get(KEEP_FORWARD)) == (call == "_compute_old_log_prob")
        asked.append(batch.fields)
        return batch

    monkeypatch.setattr(PPOTrainerSync, call, lambda self, batch, metrics: seen(batch))
    trainer = object.__new__(AblationTrainer)
    trainer.config = SimpleNamespace()
    trainer.actor_rollout_wg = SimpleNamespace(world_size=1)
    monkeypatch.setattr(module, "worth_keeping", lambda config, samples, ranks: (samples, ranks) == (3, 1))
    batch = SimpleNamespace(fields=[*STORED], keys=["a", "b", "c"], extra_info={})
    assert getattr(trainer, call)(batch, {}) is batch
    assert asked == [sorted(read)]
    assert not batch.extra_info.get(KEEP_FORWARD), "the next call is the reference policy's"


def test_before_anything_is_known_of_a_batch_the_forward_pass_asks_for_its_own_fields() -> None:
    trainer = object.__new__(AblationTrainer)
    assert trainer._narrow(SimpleNamespace(fields=None), READ_FORWARD).fields == sorted(READ_FORWARD)
