"""models/memory.py: what one layer of transformers' Qwen2 keeps for its backward pass, counted on a CPU in bfloat16."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

from experiments.models.memory import KEPT_HIDDEN, KEPT_INTERMEDIATE
from experiments.verl_plugin import attention


def kept(hidden: int, intermediate: int, kind: str) -> float:
    """Return the bytes per token that a layer keeps, beside its weights and the rotary table that all layers share."""
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=hidden // 32,
        num_key_value_heads=1,
        num_hidden_layers=1,
        vocab_size=32,
    )
    config._attn_implementation = kind
    layer = Qwen2DecoderLayer(config, 0).to(torch.bfloat16)
    position = torch.arange(128).repeat(4)[None]
    inputs = torch.randn(1, 512, hidden, dtype=torch.bfloat16, requires_grad=True)
    table = Qwen2RotaryEmbedding(config)(inputs, position)
    apart = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *table)}
    sizes: dict[int, int] = {}
    saved = []  # so that no storage is freed and its address used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in apart:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(inputs, attention_mask=None, position_ids=position, position_embeddings=table)
    return sum(sizes.values()) / 512


@pytest.mark.parametrize("kind", [attention.NAME, "sdpa"])
def test_the_factors_of_the_two_sizes(kind: str) -> None:
    small, large = kept(256, 1024, kind), kept(256, 2048, kind)
    of_intermediate = (large - small) / (2048 - 1024) / 2
    of_hidden = (small - 1024 * 2 * of_intermediate) / 256 / 2
    assert of_intermediate == KEPT_INTERMEDIATE
    assert KEPT_HIDDEN - 2 < of_hidden <= KEPT_HIDDEN
