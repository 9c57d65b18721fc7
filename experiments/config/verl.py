"""The part of a config that veRL reads, as plain values and as veRL's own command line."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from experiments.config.compose import plain, register_resolvers, verl_config_dir
from experiments.config.hydra_internals import hydra_in
from experiments.values import flatten, nodes

# Top-level nodes of our config that veRL does not know.
OUR_NODES = (
    "seed",
    "runs_dir",
    "data_dir",
    "show",
    "skip_invalid",
    "notify",
    "sweeps",
    "plugin",
    "model",
    "task",
    "rollout",
    "temperature",
    "kl",
    "hardware",
    "tracking",
    "watch",
)

# Keys with which veRL writes into the run's folder.
OURS_ALONE = ("trainer.default_local_dir", "trainer.checkpoint_callback_class")
DATA_FILES = ("data.train_files", "data.val_files")
EPOCHS = 1_000_000  # veRL ends at the epochs or at the steps, whichever comes first; a run of ours ends by its steps

# A text that needs no quotes in Hydra's grammar.
PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.@-]*")

CONSTANTS = ("null", "true", "false", "nan", "inf")


def verl_node(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved config that veRL reads."""
    return {key: value for key, value in config.items() if key not in OUR_NODES}


def verl_arguments(config: DictConfig) -> list[str]:
    """Return the overrides with which `python -m verl.trainer.main_ppo` composes the same config.

    Only what we set is named: a veRL default that interpolates another key follows that key by itself. The keys of the
    run's own folder are left out (OURS_ALONE), and the epochs are as many as the steps need.
    """
    register_resolvers()
    ours = plain(config)
    resolved = plain(config, resolve=True)
    known, values = dict(nodes(verl_defaults())), dict(flatten(verl_node(resolved)))
    values |= {key: escaped(values[key]) for key in DATA_FILES}
    arguments = [
        f"{'' if key in known else '+'}{key}={_grammar(values[key])}"
        for key, expression in flatten(verl_node(ours))
        if key in values and key not in OURS_ALONE and (key not in known or known[key] != expression)
    ]
    return [*arguments, f"trainer.total_epochs={EPOCHS}"]


def escaped(paths: Any) -> Any:
    """Return data.train_files or data.val_files so that each path means itself.

    veRL reads them by `datasets`, which takes a path with *, ? or [ for a pattern: it would read all files that match.
    """
    return [escaped(path) for path in paths] if isinstance(paths, list) else paths and glob.escape(paths)


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


NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def numbers_as_verl_has_them(config: Mapping[str, Any]) -> dict[str, int | float]:
    """Return, by key, the number to use for each leaf that is written unlike veRL's own default number at that key.

    "1" and 1 are the same learning rate, so they must be the same run. Where veRL's default is a whole number, 1.0
    becomes 1: veRL could not count to 1.0 epochs.
    """
    known = verl_numbers()
    found = {}
    for key, value in flatten(config):
        if isinstance(value, str) and key in known and NUMBER.fullmatch(value.strip()):
            number = float(value)
        elif isinstance(value, float) and key in known:
            number = value
        else:
            continue
        whole = isinstance(known[key], int) and number.is_integer()
        if whole or isinstance(value, str):
            found[key] = int(number) if whole else number
    return found
