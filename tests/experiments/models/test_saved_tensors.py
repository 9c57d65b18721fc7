"""models/memory.py: what a layer of Qwen2 keeps for its backward pass, and what a state dict keeps, on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp._shard_utils import _create_chunk_dtensor
from torch.testing._internal.distributed.fake_pg import FakeStore
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


@pytest.mark.parametrize("sizes", [(4,), (2, 2)])
def test_a_state_dict_is_a_copy_of_the_shards(sizes: tuple[int, ...]) -> None:
    """What torch makes of a gathered parameter for FSDP's sharded state dict, with and without groups of ranks."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        gathered = torch.zeros(64, 8)
        shard = _create_chunk_dtensor(gathered, 0, init_device_mesh("cpu", sizes)).to_local()
    finally:
        distributed.destroy_process_group()
    assert shard.untyped_storage().nbytes() == gathered.untyped_storage().nbytes() / sizes[-1]
    assert shard.untyped_storage().data_ptr() != gathered.untyped_storage().data_ptr()
