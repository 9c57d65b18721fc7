"""Tiny random models. Every parameter is random, biases and norms too, so that a forgotten one shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from experiments.verl_plugin.sampling import Draw

torch.set_num_threads(1)

VOCABULARY = 40
SHAPES: dict[str, dict[str, Any]] = {
    "multi-head": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "multi-query, tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "tie_word_embeddings": True},
    "wide heads": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24},
    "one layer, other theta": {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "rms_norm_eps": 1e-2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    },
}


def randomise(model: Any, seed: int) -> Any:
    """Give every parameter a random value of a size that makes predictions sharp, yet not certain."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.35 * noise)
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Make a tiny random Qwen2; keyword arguments go to its config."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    def make(seed: int = 0, dtype: torch.dtype = torch.float32, attention: str = "sdpa", **config: Any) -> Any:
        defaults = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            "max_position_embeddings": 128,
            "attn_implementation": attention,
        }
        model = Qwen2ForCausalLM(Qwen2Config(**{**defaults, **config}))
        return randomise(model, seed).to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def make_draw() -> Callable[..., Draw]:
    """Make a Draw for rows of noise; one temperature, top-k and top-p for all rows, or one each."""

    def make(rows: int, length: int, seed: int = 0, temperature: Any = 1.0, top_k: Any = -1, top_p: Any = 1.0) -> Draw:
        return Draw(
            torch.as_tensor(temperature, dtype=torch.float32).expand(rows).clone(),
            torch.as_tensor(top_k, dtype=torch.long).expand(rows).clone(),
            torch.as_tensor(top_p, dtype=torch.float32).expand(rows).clone(),
            torch.from_numpy(np.random.default_rng(seed).random((rows, length))),
        )

    return make


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The config of one architecture variant."""
    return request.param
