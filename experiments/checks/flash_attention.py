"""Check that flash-attn is there where it is asked for: else transformers refuses it when the model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.models import flash_attention
from experiments.values import at
from experiments.verl_keys import has_critic


def flash_problems(config: Mapping[str, Any]) -> list[str]:
    """Return a problem for each model of a run on GPUs that is to use flash-attn, if that is not installed."""
    if config["trainer"]["device"] == "cpu" or flash_attention.is_installed():
        return []
    models = ("actor_rollout_ref.model", *(("critic.model",) if has_critic(config) else ()))
    keys = [f"{model}.override_config.attn_implementation" for model in models]
    return [
        f"{key} must be {flash_attention.PACKED} or sdpa without the package flash-attn, but is "
        f"{at(config, key, flash_attention.FLASH)}; leave it out, or install flash-attn (docs/gpu.md)"
        for key in keys
        if str(at(config, key, flash_attention.FLASH)).startswith("flash_attention")
    ]
