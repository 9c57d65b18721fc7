"""Padding-free attention without flash-attn: transformers' attention implementation "packed_sdpa".

veRL packs a micro-batch into one row of tokens (use_remove_padding=True) and marks the sequences by position ids that
start again at 0. Everything but attention then works on real tokens only; attention itself runs on a right-padded view
with a causal mask, so padding costs only there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "packed_sdpa"


class _Layout:
    """Where each packed token stands in the padded view; the same for all layers of one forward."""

    position_ids: torch.Tensor | None = None
    shape = (0, 0)
    index = torch.empty(0, dtype=torch.long)

    @classmethod
    def of(cls, position_ids: torch.Tensor) -> tuple[int, int, torch.Tensor]:
        if cls.position_ids is not position_ids:
            position = position_ids[0]
            sequence = (position == 0).cumsum(0) - 1
            width = int(position.max()) + 1
            cls.position_ids = position_ids
            cls.shape = (int(sequence[-1]) + 1, width)
            cls.index = sequence * width + position
        return (*cls.shape, cls.index)


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
    count, width, index = _Layout.of(position_ids)

    def padded(packed: torch.Tensor) -> torch.Tensor:
        tokens = packed[0].transpose(0, 1)
        view = tokens.new_zeros(count * width, *tokens.shape[1:]).index_copy(0, index, tokens)
        return view.view(count, width, *tokens.shape[1:]).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(
        padded(query),
        padded(key),
        padded(value),
        is_causal=True,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=query.size(1) != key.size(1),
    )
    return mixed.transpose(1, 2).reshape(count * width, query.size(1), -1)[index].unsqueeze(0), None


AttentionInterface.register(NAME, packed_sdpa)
