"""Whether flash-attn is installed, and which attention the models get where it is not."""

from __future__ import annotations

import importlib.util

FLASH = "flash_attention_2"  # veRL's default (verl/workers/config/model.py)
PACKED = "packed_sdpa"  # ours, for sequences without padding: verl_plugin/attention.py


def is_installed() -> bool:
    """Return whether Python finds flash_attn. Nothing is imported: whether it loads, an attempt finds out."""
    return importlib.util.find_spec("flash_attn") is not None


def without_flash(use_remove_padding: bool) -> str:
    """Return the attention that needs no flash-attn."""
    return PACKED if use_remove_padding else "sdpa"


def chosen(use_remove_padding: bool) -> str:
    """Return the attention of a run that names none."""
    return FLASH if is_installed() else without_flash(use_remove_padding)
