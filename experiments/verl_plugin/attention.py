"""Padding-free attention without flash-attn: transformers' attention implementation "packed_sdpa".

veRL packs a micro-batch into one row of tokens (use_remove_padding=True) and marks the sequences by position ids that
start again at 0. Everything but attention then works on real tokens only. Attention itself runs on groups of sequences
of about the same length. Each group is right-padded and has a causal mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "packed_sdpa"
TOGETHER = 32  # sequences in a group: so few that their scores fit into the processor's cache, and padding is short


class Group(NamedTuple):
    """Sequences that are padded to one length."""

    sequences: int
    width: int
    sequence: torch.Tensor  # of each token: which sequence of the group it belongs to
    position: torch.Tensor  # of each token: its position in that sequence


class Layout(NamedTuple):
    """How a packed row of N tokens is divided into groups."""

    order: torch.Tensor  # (N,): the places of the groups' tokens in the row, one group after the other
    inverse: torch.Tensor  # (N,): undoes `order`
    groups: list[Group]


def layout_of(position_ids: torch.Tensor) -> Layout:
    """Return the layout of position ids (1, N).

    All layers of one forward pass get the same tensor of position ids. The first layer stores the layout on that
    tensor, and the others read it there.
    """
    known: Layout | None = getattr(position_ids, "packed_layout", None)
    if known is not None:
        return known
    position = position_ids[0]
    start = (position == 0).nonzero().squeeze(1)
    length = torch.diff(start, append=start.new_tensor([len(position)]))
    rank = length.argsort(stable=True).argsort()  # of each sequence, by its length
    order = rank.repeat_interleave(length).argsort(stable=True)
    lengths = length.sort().values.split(TOGETHER)
    positions = position[order].split([int(group.sum()) for group in lengths])
    groups = [
        Group(len(group), int(group[-1]), torch.repeat_interleave(group), places)
        for group, places in zip(lengths, positions, strict=True)
    ]
    layout = Layout(order, order.argsort(), groups)
    position_ids.packed_layout = layout  # type: ignore[attr-defined]
    return layout


class _Reorder(torch.autograd.Function):
    """x[order]. Its gradient is an indexing too, by the inverse of `order`."""

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
    layout, scale = layout_of(position_ids), query.size(-1) ** -0.5 if scaling is None else scaling
    parts = [query.size(1), key.size(1), value.size(1)]
    packed = torch.cat([query[0] * scale, key[0], value[0]]).transpose(0, 1)
    tokens = _Reorder.apply(packed, layout.order, layout.inverse)
    mixed = []
    for part, group in zip(tokens.split([len(group.position) for group in layout.groups]), layout.groups, strict=True):
        padded = part.new_zeros(group.sequences, sum(parts), group.width, part.size(2))
        padded[group.sequence, :, group.position] = part
        q, k, v = padded.split(parts, 1)
        attended = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=1.0, dropout_p=dropout, enable_gqa=q.size(1) != k.size(1)
        )
        mixed.append(attended[group.sequence, :, group.position])
    return _Reorder.apply(torch.cat(mixed), layout.inverse, layout.order).unsqueeze(0), None


AttentionInterface.register(NAME, packed_sdpa)
