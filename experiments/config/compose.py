"""Compose the config of one run from overrides: our config groups write into veRL's own config tree.

Light: this module finds veRL's config folder without importing veRL.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from experiments.config.hydra_internals import hydra_in
from experiments.errors import UserError
from experiments.models import flash_attention
from experiments.models.placement import placement_of
from experiments.project import CONFIG_DIR, PROJECT_DIR


def verl_config_dir() -> str:
    """Return the folder of veRL's own config files; UserError if veRL is not installed."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("verl must be installed, but is not; do: make install")
    return str(Path(next(iter(spec.submodule_search_locations))) / "trainer" / "config")


def register_resolvers() -> None:
    """Teach OmegaConf the few functions that conf/ uses."""
    OmegaConf.register_new_resolver("project_dir", lambda: str(PROJECT_DIR), replace=True)
    OmegaConf.register_new_resolver("verl_config_dir", verl_config_dir, replace=True)
    OmegaConf.register_new_resolver("nonzero", _nonzero, replace=True)
    OmegaConf.register_new_resolver("share", _share, replace=True)
    OmegaConf.register_new_resolver("placement", _placement, replace=True)
    OmegaConf.register_new_resolver("cpu_attention", flash_attention.without_flash, replace=True)
    OmegaConf.register_new_resolver("gpu_attention", flash_attention.chosen, replace=True)


def _nonzero(value: Any) -> bool:
    """Return whether a number is not 0. Also true if the value is not a number: preflight reports that."""
    try:
        return float(value) != 0
    except (TypeError, ValueError):
        return True


def _share(batch: Any, n: Any, *ranks: Any) -> Any:
    """Return how many of batch x n samples one rank gets. None if a value is not a number: preflight reports that.

    `ranks`: how many ranks there are, as one number or as factors of it (nodes, GPUs per node).
    """
    if all(isinstance(value, int) and value > 0 for value in (batch, n, *ranks)):
        return batch * n // math.prod(ranks)
    return None


def _placement(key: str, _root_: DictConfig) -> Any:
    """Return the value at `key` of the placement of the config that calls this resolver."""
    return getattr(placement_of(_root_), key)


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the config of one run, as the command line composes it (without the hydra node)."""
    register_resolvers()
    with hydra_in(str(CONFIG_DIR)):
        return compose("config", overrides=list(overrides))


def plain(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Return the config as plain dicts and lists. `resolve`: resolve the interpolations instead of keeping their text.

    TypeError if the config is not a mapping.
    """
    container = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(container, dict):
        raise TypeError(f"a config must be a mapping, but is a {type(container).__name__}")
    return {str(key): value for key, value in container.items()}
