"""Padding-free attention without flash-attn: transformers' attention implementation "packed_sdpa".

veRL packs a micro-batch into one row of tokens (use_remove_padding=True) and marks the sequences by position ids that
start again at 0. Everything but attention then works on real tokens only; attention itself runs on sequences of about
the same length together, right-padded, with a causal mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from experiments.verl_plugin.kv_cache import LONGEST, NARROWEST

NAME = "packed_sdpa"
TOGETHER = 32  # sequences in one product: their scores fit into a cache, and the longest ones pad few others


class Group(NamedTuple):
    """Sequences that are padded to one length."""

    sequences: int
    width: int
    sequence: torch.Tensor  # of each token
    position: torch.Tensor  # of each token there


class _Layout:
    """How a packed row is divided into groups; the same for all layers of one forward."""

    position_ids: torch.Tensor | None = None
    order: torch.Tensor  # the groups' tokens, one group after the other
    inverse: torch.Tensor
    groups: list[Group]

    @classmethod
    def of(cls, position_ids: torch.Tensor) -> type[_Layout]:
        if cls.position_ids is not position_ids:
            position = position_ids[0]
            start = (position == 0).nonzero().squeeze(1)
            length = torch.diff(start, append=start.new_tensor([len(position)]))
            rank = length.argsort(stable=True).argsort()  # of each sequence, by its length
            cls.position_ids = position_ids
            cls.order = rank.repeat_interleave(length).argsort(stable=True)
            cls.inverse = cls.order.argsort()
            lengths = length.sort().values.split(TOGETHER)
            positions = position[cls.order].split([int(group.sum()) for group in lengths])
            cls.groups = [
                Group(len(group), max(NARROWEST, int(group[-1])), torch.repeat_interleave(group), places)
                for group, places in zip(lengths, positions, strict=True)
            ]
        return cls


class _Reorder(torch.autograd.Function):
    """x[order], whose gradient is an indexing too: by the inverse."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(gradient, inverse, order), None, None


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
    layout, scale = _Layout.of(position_ids), query.size(-1) ** -0.5 if scaling is None else scaling
    parts = [query.size(1), key.size(1), value.size(1)]
    packed = torch.cat([query[0] * scale, key[0], value[0]]).transpose(0, 1)
    tokens = _Reorder.apply(packed, layout.order, layout.inverse)
    mixed = []
    for part, group in zip(tokens.split([len(group.position) for group in layout.groups]), layout.groups, strict=True):
        padded = part.new_zeros(group.sequences, sum(parts), group.width, part.size(2))
        padded[group.sequence, :, group.position] = part
        q, k, v = padded.split(parts, 1)
        mixed.append(attend(q, k, v, dropout)[group.sequence, :, group.position])
    return _Reorder.apply(torch.cat(mixed), layout.inverse, layout.order).unsqueeze(0), None


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return the values (B, heads, T, D) that each query mixes, of the keys up to its own: softmax(query key^T) value.

    On a CPU its sums run over channels and keys in their order, as those of the sampler's cache do (kv_cache.py), which
    torch's fused attention does not promise: rollout and trainer get the same numbers to the last bit.

    Args: query (B, heads, T, D), scaled; key, value (B, kv_heads, T, D); dropout, the share of the weights to drop.
    """
    count, heads, width, dim = query.shape
    if query.device.type != "cpu" or width > LONGEST or dropout:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=1.0, dropout_p=dropout, enable_gqa=heads != key.size(1)
        )
    groups = count * key.size(1)
    key, value = key.reshape(groups, width, dim), value.reshape(groups, width, dim)
    score = torch.bmm(query.reshape(groups, -1, dim), key.transpose(1, 2))
    later = score.new_full((width, width), float("-inf")).triu(1)
    score.view(count, heads, width, width).add_(later)
    return torch.bmm(score.softmax(-1), value).view(count, heads, width, dim)


AttentionInterface.register(NAME, packed_sdpa)
