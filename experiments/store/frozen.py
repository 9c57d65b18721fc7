"""The frozen configs in a run's folder: config.yaml, and beside it those of later launches that differ from it.

All of them agree in what can change the result; a later launch may name other devices, micro-batches or paths. Each
attempt is told which file is its own, so that a waiting attempt does not change when the run is asked for again. Light.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.store.files import write_atomically
from experiments.values import flatten

FIRST = "config.yaml"  # of the launch that made the folder
QUICK = "config.json"  # the same, for a command that reads a thousand of them: YAML takes 40 times as long
# Keys that an attempt does not read, or is told separately: how the run was asked for, and to which step it is to go.
ASIDE = ("show", "sweeps", "tracking.group", "tracking.tags", "trainer.total_training_steps")


def freeze(folder: Path, text: str, config: Mapping[str, Any] | None) -> None:
    """Write a run's first config. `config`: the mapping that the YAML text holds, if the caller has it already."""
    write_atomically(folder / FIRST, text)
    copy = {"of": hashlib.sha256(text.encode()).hexdigest(), "config": load(folder) if config is None else config}
    with contextlib.suppress(TypeError):  # YAML has types that JSON lacks: then there is no copy
        line = json.dumps(copy)
        if json.loads(line) == copy:  # if a power cut tears the copy, it is no JSON, and config.yaml is read
            write_atomically(folder / QUICK, line + "\n", durable=False)


def freeze_launch(folder: Path, text: str, config: Mapping[str, Any]) -> str:
    """Return the name of the file with a launch's config; write it if config.yaml would tell an attempt otherwise."""
    if _read_by_an_attempt(config) == _read_by_an_attempt(load(folder)):
        return FIRST
    name = f"config-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
    if not (folder / name).exists():
        write_atomically(folder / name, text)
    return name


def load(folder: Path, name: str = FIRST) -> dict[str, Any]:
    """Return a frozen config as plain dicts and lists; UserError if it can't be read.

    Read from config.json as long as that is a copy of config.yaml.
    """
    try:
        text = (folder / name).read_bytes()
    except OSError as error:
        raise _unreadable(folder, name, error) from None
    if name == FIRST:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            copy = json.loads((folder / QUICK).read_bytes())
            if copy["of"] == hashlib.sha256(text).hexdigest():
                return copy["config"]
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config = yaml.load(text.decode(), Loader=loader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # ValueError: not UTF-8, or an invalid date
        raise _unreadable(folder, name, error) from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / name} must hold a mapping, but holds {type(config).__name__}; move it away")
    return config


def _read_by_an_attempt(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config) if key not in ASIDE}


def _unreadable(folder: Path, name: str, error: Exception) -> UserError:
    cause = getattr(error, "strerror", None) or error
    return UserError(f"{folder} must be a run's folder, but its {name} can't be read: {cause}; mend it or move it away")
