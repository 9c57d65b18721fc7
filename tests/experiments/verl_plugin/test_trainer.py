"""What the ablation trainer has its workers fetch of a batch; trainings are in tests/e2e."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from experiments.verl_plugin.trainer import READ_FORWARD, READ_UPDATE, AblationTrainer

STORED = sorted(READ_UPDATE - {"values", "returns"} | {"uid", "extra_fields", "rm_scores", "reward_model", "num_turns"})
CALLS = {
    "_compute_old_log_prob": READ_FORWARD,
    "_compute_ref_log_prob": READ_FORWARD,
    "_compute_values": READ_FORWARD,
    "_update_critic": READ_UPDATE - {"values", "returns"},
    "_update_actor": READ_UPDATE - {"values", "returns"},
}


@pytest.mark.parametrize(("call", "read"), CALLS.items())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_worker_on_a_cpu_fetches_what_it_reads_of_what_is_stored(
    call: str, read: set[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(PPOTrainerSync, call, lambda self, batch, metrics: asked.append(batch.fields) or batch)
    trainer = object.__new__(AblationTrainer)
    trainer.config = SimpleNamespace(trainer=SimpleNamespace(device=device))
    batch = SimpleNamespace(fields=[*STORED])
    assert getattr(trainer, call)(batch, {}) is batch
    assert asked == [sorted(read) if device == "cpu" else STORED]


def test_before_anything_is_known_of_a_batch_the_forward_pass_asks_for_its_own_fields() -> None:
    trainer = object.__new__(AblationTrainer)
    trainer.config = SimpleNamespace(trainer=SimpleNamespace(device="cpu"))
    assert trainer._narrow(SimpleNamespace(fields=None), READ_FORWARD).fields == sorted(READ_FORWARD)
