"""Test experiments/verl_plugin/attention.py: a packed micro-batch against its sequences one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.experiments.verl_plugin.random_models import SHAPES, VOCABULARY, make_model, packed_logits

PACKINGS = [[5, 1, 8, 3], [4], [1, 1, 1], [2, 9], [7, 1, 12, 3, 5, 18, 2] * 10]


def sequences(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]


def separate_logits(model: Any, parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([model(part.unsqueeze(0), use_cache=False).logits[0] for part in parts])


def loss(logits: torch.Tensor) -> torch.Tensor:
    """Weigh every logit differently, so that no error cancels in the sum."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9), dtype=logits.dtype)
    return (logits.log_softmax(-1) * weights).sum()


@pytest.mark.parametrize("lengths", PACKINGS, ids=lambda lengths: f"{lengths[:4]} {len(lengths)}")
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_logits_and_gradients_equal_those_of_separate_sequences(shape: dict[str, Any], lengths: list[int]) -> None:
    packed = make_model(dtype=torch.float64, attention="packed_sdpa", **shape)
    separate = make_model(dtype=torch.float64, attention="sdpa", **shape)
    parts = sequences(lengths)
    ours, theirs = packed_logits(packed, parts), separate_logits(separate, parts)
    # transformers computes norms and rotary angles in float32, for every batch. Only their rounding may differ.
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    loss(ours).backward()
    loss(theirs).backward()
    for (name, one), other in zip(packed.named_parameters(), separate.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        torch.testing.assert_close(
            one.grad, other.grad, atol=1e-4, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_sequence_sees_neither_its_neighbours_nor_its_future() -> None:
    model = make_model(dtype=torch.float64, attention="packed_sdpa")
    parts = sequences([4, 6, 5])
    before = packed_logits(model, parts)
    parts[1][3] = (parts[1][3] + 1) % VOCABULARY
    changed = (packed_logits(model, parts) - before).abs().amax(-1) > 1e-9
    assert changed.tolist() == [False] * (4 + 3) + [True] * 3 + [False] * 5


def test_a_model_with_dropout_drops_out_while_it_is_trained() -> None:
    model, parts = make_model(attention="packed_sdpa", attention_dropout=0.5), sequences([4, 6, 5])
    assert torch.equal(packed_logits(model, parts), packed_logits(model, parts))
    model.train()
    assert not torch.allclose(packed_logits(model, parts), packed_logits(model, parts), atol=1e-3)


def test_forwards_with_different_packings_may_follow_each_other() -> None:
    """A layout counts for one forward only: not for the next one, nor for a backward in between."""
    model = make_model(dtype=torch.float64, attention="packed_sdpa")
    first, second = sequences([3, 5], 1), sequences([5, 3], 2)
    expected = [separate_logits(make_model(dtype=torch.float64), parts) for parts in (first, second, first)]
    for parts, logits in zip((first, second, first), expected, strict=True):
        torch.testing.assert_close(packed_logits(model, parts), logits, atol=1e-5, rtol=0)


def test_recomputing_for_the_gradient_changes_nothing() -> None:
    """With gradient checkpointing the layers run again in the backward pass, perhaps after another forward pass."""
    gradients = []
    for checkpointing in (False, True):
        model = make_model(dtype=torch.float64, attention="packed_sdpa").train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        total = loss(packed_logits(model, sequences([3, 5], 1)))
        packed_logits(model, sequences([6, 2], 2))
        total.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param([[1, 1, 1, 1], [0, 0, 1, 1]], id="two rows"),
        pytest.param([[1, 1, 1, 1], [1, 1, 1, 1]], id="two rows of one length"),
    ],
)
def test_padded_input_is_refused_with_the_key_to_set(mask: list[list[int]]) -> None:
    model = make_model(attention="packed_sdpa")
    attention_mask = torch.tensor(mask)
    position_ids = (attention_mask.cumsum(1) - 1).clamp_min(0)
    with pytest.raises(ValueError, match=r"packed_sdpa needs packed .*actor_rollout_ref.model.use_remove_padding=true"):
        model(
            torch.ones_like(attention_mask), attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
