"""Padding-free attention without flash-attn: transformers' attention implementation "packed_sdpa".

veRL packs a micro-batch into one row of tokens (use_remove_padding=True) and marks the sequences by position ids that
start again at 0. Everything but attention then works on real tokens only; attention itself runs on a right-padded view
with a causal mask, so padding costs only there.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from experiments.verl_plugin.kv_cache import NARROWEST

NAME = "packed_sdpa"


class _Layout:
    """Where each packed token stands in the padded view; the same for all layers of one forward."""

    position_ids: torch.Tensor | None = None
    place: tuple[torch.Tensor, torch.Tensor]  # the sequence of each token, and its position there
    bias: torch.Tensor  # (T, T): -inf where a query comes before a key

    @classmethod
    def of(
        cls, position_ids: torch.Tensor, like: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        if cls.position_ids is not position_ids or cls.bias.dtype != like.dtype:
            position = position_ids[0]
            width = max(NARROWEST, int(position.max()) + 1)
            cls.position_ids = position_ids
            cls.place = ((position == 0).cumsum(0) - 1, position)
            cls.bias = causal(width, like)
        return cls.place, cls.bias


def packed_sdpa(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return (1, N, heads, D) for query (1, heads, N, D) and key, value (1, kv_heads, N, D) of N packed tokens."""
    if attention_mask is not None or query.size(0) != 1 or position_ids is None:
        raise ValueError("packed_sdpa needs packed sequences: set actor_rollout_ref.model.use_remove_padding=true")
    if dropout:
        raise ValueError(f"packed_sdpa drops nothing out, but attention_dropout is {dropout}")
    (sequence, position), bias = _Layout.of(position_ids, query)
    shape = (int(sequence[-1]) + 1, len(bias))

    def padded(packed: torch.Tensor) -> torch.Tensor:
        tokens = packed[0].transpose(0, 1)
        view = tokens.new_zeros(shape[0], tokens.size(1), shape[1], tokens.size(2))
        view[sequence, :, position] = tokens
        return view

    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    mixed = attend(padded(query * scale), padded(key), padded(value), bias)
    return mixed[sequence, :, position].unsqueeze(0), None


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Return softmax(query key^T + bias) value (B, heads, T, D).

    The sums run over channels and keys in their order, as those of the sampler's cache do (kv_cache.py), which torch's
    fused attention does not promise: rollout and trainer get the same numbers to the last bit.

    Args: query (B, heads, T, D), scaled; key, value (B, kv_heads, T, D); bias (T, T), -inf where a query sees no key.
    """
    count, heads, width, dim = query.shape
    groups = count * key.size(1)
    key, value = key.reshape(groups, width, dim), value.reshape(groups, width, dim)
    score = torch.bmm(query.reshape(groups, -1, dim), key.transpose(1, 2))
    score.view(count, heads, width, width).add_(bias)
    return torch.bmm(score.softmax(-1), value).view(count, heads, width, dim)


def causal(width: int, like: torch.Tensor) -> torch.Tensor:
    """Return `attend`'s bias (T, T) for queries that see the keys up to their own."""
    return like.new_full((width, width), float("-inf")).triu(1)


AttentionInterface.register(NAME, packed_sdpa)
