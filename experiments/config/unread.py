"""Which keys of a config have no effect on its run, because neither veRL nor this project reads them there.

Setting such a key on the command line is a mistake (planning/plan.py refuses it), and its value is no part of a run's
identity. Light, since identity.py imports this module.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

from experiments.config.readings import BEFORE_THE_PLAN, READINGS
from experiments.project import PACKAGE_DIR
from experiments.values import Config

# Mappings whose keys veRL hands on to somebody else: anything may be added to them.
HANDED_ON = re.compile(
    r"(task|hydra|ray_kwargs)\..+|.+\.(override_config|reward_kwargs|engine_kwargs|custom|sampler_kwargs|extra_configs"
    r"|override_optimizer_config|override_transformer_config|apply_chat_template_kwargs|runtime_env|mixed_precision"
    r"|custom_cls|tool_kwargs)\..+"
)


def unread(config: Config) -> re.Pattern[str]:
    """Return the pattern of the keys that the run of a resolved config does not read; it is for `fullmatch`."""
    return _pattern(tuple(place for place, reading in enumerate(READINGS) if not reading.read(config)))


@cache
def _pattern(places: tuple[int, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{READINGS[place].keys})" for place in places))


def unread_problem(key: str, config: Config) -> str | None:
    """Return why a key that somebody set has no effect on the run, and what to do; None if the run reads it.

    `config`: resolved, but not filled in by the plan.
    """
    for reading in (*READINGS, *BEFORE_THE_PLAN):
        if re.fullmatch(reading.keys, key) and not reading.read(config):
            return f"{key} must be a key that the run reads, but {reading.why}; {reading.do}"
    return None


def unknown_addition(key: str, known: Collection[str]) -> str | None:
    """Return the problem of a key that +key=value adds although no code reads one of that name; None if some may."""
    if key in known or HANDED_ON.fullmatch(key) or named_in_code(key.rsplit(".", 1)[-1]):
        return None
    return f"{key} must be a key that something reads, but neither veRL nor this project names it; leave +{key} out"


@cache
def named_in_code(name: str) -> bool:
    """Return whether a word stands in veRL's code or in our plugin's."""
    spec = importlib.util.find_spec("verl")
    folders = [*(spec.submodule_search_locations or ())] if spec else []
    word = re.compile(rb"\b" + re.escape(name.encode()) + rb"\b")
    files = (file for folder in (*folders, PACKAGE_DIR / "verl_plugin") for file in Path(folder).rglob("*.py"))
    return any(word.search(file.read_bytes()) for file in files)
