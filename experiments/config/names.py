"""The name of a run, for people: it lists what differs from the baseline. identity.py says which runs are the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.config.identity import is_scientific

# What a run's name calls a group or a key, in the order in which the name lists them. Any other group comes after these
# groups, under its own name; any other key comes after these keys, under its shortest ending that no other key has.
GROUP_LABELS = {
    "experiment": "experiment",
    "model": "model",
    "task": "task",
    "algorithm": "algorithm",
    "temperature": "schedule",
    "rollout": "rollout",
    "kl": "kl_group",
}
KEY_LABELS = {"rollout.temperature": "temperature", "rollout.n": "n", "kl.coef": "kl"}
NOT_IN_NAMES = ("hardware", "tracking", "local")  # groups that say where a run executes, or that all runs share
ARM_LENGTH = 100


# Keys that point at content: the content is what counts for a run's identity, the path is what a person knows it by.
PATHS = (
    *("model.path", "task.path", "task.source", "data.train_files", "data.val_files"),
    "reward.custom_reward_function.path",
)


def arm_parts(choices: Mapping[str, str], changes: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Return what tells an arm from the baseline, e.g. ["algorithm=ppo", "temperature=0.6"]; the seed is left out.

    Args:
        choices: the choice by config group, for each group whose choice is not the default.
        changes: the value by dotted key, for each key that was set to another value than its group gives it.
        known: every key of the config.
    """
    groups = [group for group in choices if group.split("/")[0] not in ("hydra", *NOT_IN_NAMES)]
    groups.sort(key=lambda group: (_place(group, GROUP_LABELS), group))
    keys = [key for key in changes if (is_scientific(key) or key in PATHS) and key != "seed"]
    keys.sort(key=lambda key: (_place(key, KEY_LABELS), key))
    others = {*known, *changes, *KEY_LABELS.values(), *GROUP_LABELS.values(), "seed"}
    return [
        *(_safe(f"{GROUP_LABELS.get(group, group)}={choices[group]}") for group in groups),
        *(_safe(f"{_label(key, others)}={_spelt_path(key, changes[key])}") for key in keys),
    ]


def _label(key: str, others: Collection[str]) -> str:
    """Return the shortest ending of a key that is neither another key nor the ending of one."""
    if key in KEY_LABELS:
        return KEY_LABELS[key]
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        ending = ".".join(parts[start:])
        if not any(other == ending or (other.endswith(f".{ending}") and other != key) for other in others):
            return ending
    return key


def _spelt_path(key: str, value: Any) -> str:
    """Return a value as a name spells it; of a path its end, which is what tells it from others."""
    return "/".join(str(value).split("/")[-2:]) if key in PATHS else _spelt(value)


def arm_name(parts: Sequence[str]) -> str:
    """Return the arm's part of a run's name: its parts, or "baseline" without any; cut to ARM_LENGTH characters."""
    name = ",".join(parts) or "baseline"
    return name if len(name) <= ARM_LENGTH else f"{name[: ARM_LENGTH - 3]}..."


def run_name(arm: str, seed: Any) -> str:
    """Return e.g. "temperature=0.6,seed=1", a valid folder name on any file system; the caller adds the id."""
    return f"{arm},{_safe(f'seed={_spelt(seed)}')}"


def _place(name: str, order: Mapping[str, str]) -> int:
    return list(order).index(name) if name in order else len(order)


def _spelt(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _safe(part: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", part, flags=re.ASCII)[:ARM_LENGTH]
