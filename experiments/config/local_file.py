"""Check conf/local/, the user's own defaults: a misspelt key there is refused, as it is on the command line.

Hydra accepts any key from a file: `rollot:` would silently make a node that nothing reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from hydra import compose
from omegaconf import OmegaConf

from experiments.config.compose import compose_config, plain
from experiments.config.hydra_internals import hydra_in
from experiments.config.overrides import parse_overrides, unknown, unknown_key
from experiments.config.verl import verl_defaults
from experiments.errors import UserError
from experiments.project import CONFIG_DIR
from experiments.values import nodes

PACKAGE = "# @package _global_"
FOLDER = CONFIG_DIR / "local"


def check_local(overrides: Sequence[str]) -> None:
    """Raise one UserError that names every key of the user's file in conf/local/ that the config does not have."""
    if not FOLDER.is_dir():
        return
    parsed = [item for item in parse_overrides(overrides) if not item.is_sweep_override()]
    chosen = [item for item in parsed if item.key_or_group == "local"]
    file = FOLDER / f"{chosen[-1].value() if chosen else 'default'}.yaml"
    if not file.is_file() or any(item.is_delete() for item in chosen):
        return
    text = file.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict) or PACKAGE not in text.splitlines()[:3]:
        problem = f"{file} must be a mapping below a first line {PACKAGE}, but is not"
        raise UserError(f"{problem}; write that line first, or nothing reads the file")
    groups = [
        item.input_line or "" for item in parsed if (CONFIG_DIR / item.key_or_group).is_dir() and item not in chosen
    ]
    composed = compose_config([*groups, *_choices(content.pop("defaults", [])), "~local"])
    known = dict(nodes(plain(composed)))
    of_hydra = content.pop("hydra", None)
    free = frozenset(key for key, value in nodes(verl_defaults()) if value == {})
    problems = [f"{file}: {unknown_key(key, known)}" for key in unknown(content, known, free)]
    if isinstance(of_hydra, dict):
        known = known_to_hydra(groups)
        free = frozenset(key for key, value in known.items() if value is None or value == {})
        problems += [f"{file}: {unknown_key(key, known)}" for key in unknown({"hydra": of_hydra}, known, free)]
    if problems:
        raise UserError(*problems)


def known_to_hydra(groups: Sequence[str]) -> dict[str, Any]:
    """Return every key that begins with "hydra.", with its value; the settings of all our launchers are among them.

    The user's file holds SLURM's settings while another command chooses a launcher that has none.
    """
    config: dict[str, Any] = {}
    with hydra_in(str(CONFIG_DIR)):
        for launcher in ([], ["hydra/launcher=slurm"]):
            composed = compose("config", overrides=[*groups, "~local", *launcher], return_hydra_config=True)
            config |= dict(nodes({"hydra": OmegaConf.to_container(composed.hydra, resolve=False)}))
    return config


def _choices(defaults: Any) -> list[str]:
    """Return what a defaults list chooses, as overrides: "override /hardware: a100x2" is hardware=a100x2.

    Hydra's own groups are left out: hydra_choices.py has them.
    """
    pairs = [pair for entry in defaults or () if isinstance(entry, dict) for pair in entry.items()]
    named = [(str(group).removeprefix("override ").removeprefix("/"), choice) for group, choice in pairs if choice]
    return [f"{group}={choice}" for group, choice in named if not group.startswith("hydra/")]
