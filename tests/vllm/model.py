"""The tiny model in a shape that vLLM's CPU attention knows: the same function, with heads of size 32 instead of 24.

The weights are padded with zeros. The padding would change three things, and each is undone: RMSNorm takes its mean
over more dimensions, attention divides by the root of a longer head, and rotary angles spread over more pairs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from experiments.project import PROJECT_DIR

WEIGHTS = PROJECT_DIR / "experiments/tiny_model/weights"
HEAD = 32


def load(folder: Path) -> Any:
    """Return the model in a folder, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def widen(narrow: Any) -> Any:
    """Return a Qwen2 with heads of HEAD dimensions that computes the logits of `narrow`, up to rounding."""
    config = narrow.config
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    head = width // heads
    longer, wider = HEAD / head, heads * HEAD / width
    theta = config.rope_parameters["rope_theta"] ** longer  # pair i keeps the angle theta ** (-2i / head)
    changed = {
        "hidden_size": heads * HEAD,
        "rms_norm_eps": config.rms_norm_eps / wider,
        "rope_parameters": {**config.rope_parameters, "rope_theta": theta},
    }
    wide = Qwen2ForCausalLM(Qwen2Config(**{**config.to_dict(), **changed})).float().eval()
    wide.generation_config = narrow.generation_config

    half = torch.arange(head // 2)
    in_head = torch.cat([half, HEAD // 2 + half])  # rotary embedding pairs dimension i with i + half a head
    of_heads = {n: torch.cat([in_head + HEAD * index for index in range(n)]) for n in (heads, groups)}
    parameters = dict(wide.named_parameters())
    for name, old in narrow.named_parameters():
        new = parameters[name].zero_()
        layer = name.rsplit(".", 2)[-2]
        if layer.endswith("norm"):
            new[:width] = old / wider**0.5
        elif layer in ("q_proj", "k_proj", "v_proj"):
            rows = of_heads[heads if layer == "q_proj" else groups]
            scaled = old * longer**0.5 if layer == "q_proj" else old
            new[(rows, slice(width)) if old.dim() == 2 else rows] = scaled
        elif layer == "o_proj":
            new[:width, of_heads[heads]] = old
        elif layer == "down_proj":
            new[:width] = old
        else:  # embeddings, gate and up: they read the residual stream
            new[:, :width] = old
    return wide


def save_wide(folder: Path) -> Path:
    """Write the widened tiny model and its tokenizer into a folder; return it."""
    widen(load(WEIGHTS)).save_pretrained(folder)
    for file in (*WEIGHTS.glob("tokenizer*"), *WEIGHTS.glob("*.jinja")):
        shutil.copy(file, folder)
    return folder
