"""The presets' loss_agg_mode is the one of veRL 0.9.1 that is nearest to what TinyZero's veRL computed.

TinyZero's veRL averages a loss over the tokens of a micro-batch and then over the micro-batches (dp_actor.py,
update_policy). It multiplies the size of a micro-batch by rollout.n (fsdp_workers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo.core_algos import agg_loss

from experiments.config.article_scripts import ACTOR, SCRIPTS

MODES = ("token-mean", "seq-mean-token-mean")
LONGEST = 1024
GPUS = 2


def micro_batch(script: str, n: int) -> int:
    """Return how many responses a micro-batch of a GPU had."""
    return int(SCRIPTS[script][f"{ACTOR}.ppo_micro_batch_size"]) // GPUS * n


def tinyzero(losses: torch.Tensor, mask: torch.Tensor, size: int) -> torch.Tensor:
    parts = [(part * of).sum() / of.sum() for part, of in zip(losses.split(size), mask.split(size), strict=True)]
    return torch.stack(parts).mean()


def weights(compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Return how much each response counts in a loss: the sum of its tokens' gradients; 1 on average."""
    losses = torch.zeros_like(mask, requires_grad=True)
    compute(losses, mask).backward()
    assert losses.grad is not None
    return losses.grad.sum(dim=1) * len(mask)


def distances(lengths: np.ndarray, size: int) -> dict[str, float]:
    """Return how far each mode's weights are from TinyZero's, as the root of the mean square."""
    mask = (torch.arange(LONGEST)[None, :] < torch.tensor(lengths)[:, None]).float()
    then = weights(lambda losses, of: tinyzero(losses, of, size), mask)
    now = {mode: weights(lambda losses, of, m=mode: agg_loss(losses, of, m), mask) for mode in MODES}
    return {mode: float((then - weight).square().mean().sqrt()) for mode, weight in now.items()}


def drawn(kind: str) -> np.ndarray:
    """Return the lengths of a mini-batch's responses: most are short, and a tail is long or was cut."""
    rng = np.random.default_rng(0)
    if kind == "a tail":
        return np.clip(rng.lognormal(np.log(250), 0.8, 320), 20, LONGEST).astype(int)
    return np.where(rng.random(320) < 0.2, LONGEST, rng.integers(60, 200, 320))


def test_two_responses_by_hand() -> None:
    """One of 100 tokens and one of 300, in a micro-batch of both, and in one of each."""
    mask = torch.zeros(2, LONGEST)
    mask[0, :100] = mask[1, :300] = 1.0
    assert weights(lambda losses, of: tinyzero(losses, of, 2), mask).tolist() == pytest.approx([0.5, 1.5])
    assert weights(lambda losses, of: agg_loss(losses, of, "token-mean"), mask).tolist() == pytest.approx([0.5, 1.5])
    assert weights(lambda losses, of: tinyzero(losses, of, 1), mask).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("kind", ["a tail", "some cut"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_preset_has_the_nearest(resolved: Callable[..., dict[str, Any]], script: str, kind: str) -> None:
    config = resolved(f"experiment={script}")
    size = micro_batch(script, config["rollout"]["n"])
    assert size == {"article_grpo": 10, "article_ppo": 2, "tinyzero_ppo": 4}[script]
    far = distances(drawn(kind), size)
    mode = config["actor_rollout_ref"]["actor"]["loss_agg_mode"]
    assert mode == min(far, key=lambda name: far[name]), far
    assert config["critic"]["loss_agg_mode"] == mode, "its micro-batches had as many responses"
