"""The name of a run, for people: it lists what differs from the baseline. identity.py says which runs are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.identity import is_scientific

# What a run's name calls a group or a key, in the order in which the name lists them. Any other group comes after these
# groups, under its own name; any other key comes after these keys, under its last part.
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


def arm_parts(choices: Mapping[str, str], changes: Mapping[str, Any]) -> list[str]:
    """Return what tells an arm from the baseline, e.g. ["algorithm=ppo", "temperature=0.6"]; the seed is left out.

    Args:
        choices: the choice by config group, for each group whose choice is not the default.
        changes: the value by dotted key, for each key that was set to another value than its group gives it.
    """
    groups = [group for group in choices if group.split("/")[0] not in ("hydra", *NOT_IN_NAMES)]
    groups.sort(key=lambda group: (_place(group, GROUP_LABELS), group))
    keys = [key for key in changes if is_scientific(key) and key != "seed"]
    keys.sort(key=lambda key: (_place(key, KEY_LABELS), key))
    short = [key.rsplit(".", 1)[-1] for key in keys]
    labels = [
        KEY_LABELS.get(key) or (last if short.count(last) == 1 else ".".join(key.rsplit(".", 2)[-2:]))
        for key, last in zip(keys, short, strict=True)
    ]
    return [
        *(_safe(f"{GROUP_LABELS.get(group, group)}={choices[group]}") for group in groups),
        *(_safe(f"{label}={_spelt(changes[key])}") for label, key in zip(labels, keys, strict=True)),
    ]


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
