"""Make tiny random models. Every parameter is random, biases and norms too, so that a forgotten one shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from experiments.verl_plugin.rollout.draw import Draw

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


def randomise(model: Any, seed: int, scale: float = 0.35) -> Any:
    """Give every parameter a random value; the default size makes predictions sharp, but not certain."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else scale * noise)
    return model.eval()


def make_model(
    seed: int = 0, dtype: torch.dtype = torch.float32, attention: str = "sdpa", scale: float = 0.35, **config: Any
) -> Any:
    """Return a tiny random Qwen2; further keyword arguments go to its config."""
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
    return randomise(Qwen2ForCausalLM(Qwen2Config(**{**defaults, **config})).to(dtype), seed, scale)


def packed_logits(model: Any, parts: list[torch.Tensor]) -> torch.Tensor:
    """Return the logits (N, V) of the sequences packed into one row, as veRL's engine passes them."""
    position_ids = torch.cat([torch.arange(len(part)) for part in parts]).unsqueeze(0)
    return model(torch.cat(parts).unsqueeze(0), position_ids=position_ids, use_cache=False).logits[0]


def make_draw(rows: int, length: int, seed: int = 0, temperature: Any = 1.0, top_k: Any = -1, top_p: Any = 1.0) -> Draw:
    """Return a Draw with random noise; one temperature, top-k and top-p for all rows, or one each."""
    return Draw(
        torch.as_tensor(temperature, dtype=torch.float32).expand(rows).clone(),
        torch.as_tensor(top_k, dtype=torch.long).expand(rows).clone(),
        torch.as_tensor(top_p, dtype=torch.float32).expand(rows).clone(),
        torch.from_numpy(np.random.default_rng(seed).random((rows, length))),
    )
