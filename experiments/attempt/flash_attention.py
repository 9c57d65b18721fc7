"""Take another attention where flash-attn does not load on the node of an attempt.

A plan looks whether flash-attn is installed. Whether it loads is seen only where the GPUs are: it may be built for
another torch, and a job's node may have another environment.
"""

from __future__ import annotations

import importlib
from typing import Any

from omegaconf import OmegaConf, open_dict

from experiments.models.flash_attention import FLASH, without_flash
from experiments.values import at

MODELS = ("actor_rollout_ref.model", "critic.model")


def replace_flash(verl: Any) -> str | None:
    """Put another attention into veRL's config if flash-attn is asked for and does not load; return what was done."""
    config = OmegaConf.to_container(verl, resolve=False)
    asking = [
        model for model in MODELS if str(at(config, f"{model}.override_config.attn_implementation", FLASH)) == FLASH
    ]
    if at(config, "trainer.device") == "cpu" or not asking:
        return None
    try:
        importlib.import_module("flash_attn")
        return None
    except (ImportError, OSError) as error:
        failed = f"{type(error).__name__}: {error}".splitlines()[0]
    with open_dict(verl):
        for model in asking:
            attention = without_flash(bool(OmegaConf.select(verl, f"{model}.use_remove_padding")))
            OmegaConf.update(verl, f"{model}.override_config.attn_implementation", attention, force_add=True)
    return f"flash-attn does not load here ({failed}): {attention} is used in its place, which is slower (docs/gpu.md)"
