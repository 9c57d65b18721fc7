"""From overrides to a config: our groups on veRL's own tree, and back to veRL's argument list.

Light: finds veRL's config folder without importing veRL.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from experiments.errors import UserError
from experiments.identity import flatten
from experiments.placement import placement

PROJECT_DIR = Path(__file__).resolve().parents[1]
CONFIG_DIR = PROJECT_DIR / "conf"
OUR_NODES = (
    "seed",
    "runs_dir",
    "data_dir",
    "show",
    "sweeps",
    "plugin",
    "model",
    "task",
    "rollout",
    "temperature",
    "kl",
    "hardware",
    "tracking",
)

# What Hydra's grammar takes for a text without quotes.
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.@-]*")
CONSTANTS = ("null", "true", "false", "nan", "inf")


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
    OmegaConf.register_new_resolver("cpu_attention", lambda fast: "packed_sdpa" if fast else "sdpa", replace=True)


def _nonzero(value: Any) -> bool:
    """Return whether a number is not 0; true for what is no number (preflight says so in words)."""
    try:
        return float(value) != 0
    except (TypeError, ValueError):
        return True


def _share(batch: Any, n: Any, *ranks: Any) -> Any:
    """Return how many of batch x n samples one rank gets; null for what is no number (preflight says so in words).

    `ranks`: one number, or several whose product counts: nodes, GPUs of a node.
    """
    if all(isinstance(value, int) and value > 0 for value in (batch, n, *ranks)):
        return batch * n // math.prod(ranks)
    return None


def _placement(key: str, _root_: DictConfig) -> Any:
    """Return a key of `placement` for the config that asks."""
    model, hardware = _root_.model, _root_.hardware
    gpus = (hardware.nodes, hardware.gpus_per_node, hardware.get("memory_gib"))
    return placement(model.parameters, model.shape, *gpus, _root_.algorithm.adv_estimator)[key]


@contextlib.contextmanager
def hydra_in(source: str) -> Iterator[None]:
    """Let `compose` read a folder, or verl://FOLDER, as hydra.initialize_config_dir does.

    Also while Hydra is running the command: a launcher asks for veRL's defaults.
    """
    instance = GlobalHydra.instance()
    running = instance.hydra
    instance.clear()
    try:
        version.setbase("1.3")
        Hydra.create_main_hydra2("app", create_config_search_path(source))
        yield
    finally:
        instance.hydra = running


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Return the config of one run, as the command line composes it (without the hydra node)."""
    register_resolvers()
    with hydra_in(str(CONFIG_DIR)):
        return compose("config", overrides=list(overrides))


def plain(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    """Return the config as plain dicts and lists; its interpolations resolved or as they are written."""
    container = OmegaConf.to_container(config, resolve=resolve)
    if not isinstance(container, dict):
        raise TypeError(f"a config must be a mapping, but is a {type(container).__name__}")
    return {str(key): value for key, value in container.items()}


def verl_node(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that veRL reads."""
    return {key: value for key, value in config.items() if key not in OUR_NODES}


def verl_arguments(config: DictConfig) -> list[str]:
    """Return the overrides with which `python -m verl.trainer.main_ppo` composes the same config.

    Only what we set is named: a veRL default that interpolates another key follows that key by itself.
    """
    register_resolvers()
    ours = plain(config)
    resolved = plain(config, resolve=True)
    known, values = dict(nodes(verl_defaults())), dict(flatten(verl_node(resolved)))
    return [
        f"{'' if key in known else '+'}{key}={_grammar(values[key])}"
        for key, expression in flatten(verl_node(ours))
        if key in values and (key not in known or known[key] != expression)
    ]


@cache
def verl_defaults() -> dict[str, Any]:
    """Return veRL's own config, interpolations as they are written; composed once, whatever the number of runs."""
    with hydra_in(f"verl://{verl_config_dir()}"):
        return plain(compose("ppo_trainer"))


@cache
def verl_numbers() -> dict[str, int | float]:
    """Return veRL's own default of every key that is a number there."""
    leaves = flatten(verl_defaults())
    return {k: value for k, value in leaves if isinstance(value, (int, float)) and not isinstance(value, bool)}


def nodes(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every node of a tree, leaves or not."""
    for key, value in node.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from nodes(value, f"{prefix}{key}.")


def _grammar(value: Any) -> str:
    """Return a value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_grammar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_grammar, value)) + "]"
    if isinstance(value, str) and (not PLAIN.fullmatch(value) or value.lower() in CONSTANTS):
        return QuotedString(text=value, quote=Quote.double).with_quotes()
    return str(value)


def override(key: str, value: Any) -> str:
    """Return key=value in Hydra's override grammar."""
    return f"{key}={_grammar(value)}"
