"""The name of a run, for people: it lists what differs from the baseline. identity.py says which runs are the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from experiments.config.identity import canonical, is_scientific

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
DIGEST = 8
WORDS = ("True", "False", "None", "deleted")  # how a name spells what is no text: a text like these needs a mark

# Keys that point at content: the content is what counts for a run's identity, the path is what a person knows it by.
PATHS = (
    *("model.path", "task.path", "task.source", "data.train_files", "data.val_files"),
    "reward.custom_reward_function.path",
)


Arm = tuple[Mapping[str, str], Mapping[str, Any], Collection[str]]
"""What `arm_parts` takes: the choices, the changes, and every key of the config."""


def parts_of_arms(arms: Sequence[Arm]) -> list[list[str]]:
    """Return `arm_parts` of each arm; arms that differ in any setting but the seed get different parts.

    Where the usual parts don't tell two arms apart, the parts name all groups, and at last a digest.
    """
    exact = [_exact(*arm[:2]) for arm in arms]
    parts = [arm_parts(*arm) for arm in arms]
    for place in _alike(parts, exact):
        parts[place] = arm_parts(*arms[place], every=True)
    for place in _alike(parts, exact):
        parts[place].append(f"arm={_digest(exact[place])}")
    return parts


def _alike(parts: Sequence[Sequence[str]], exact: Sequence[str]) -> list[int]:
    """Return the places of the arms whose name another arm with other settings has, too."""
    settings: dict[str, set[str]] = {}
    for own, one in zip(parts, exact, strict=True):
        settings.setdefault(arm_name(own), set()).add(one)
    return [place for place, own in enumerate(parts) if len(settings[arm_name(own)]) > 1]


def arm_parts(
    choices: Mapping[str, str], changes: Mapping[str, Any], known: Collection[str], every: bool = False
) -> list[str]:
    """Return what tells an arm from the baseline, e.g. ["algorithm=ppo", "temperature=0.6"]; the seed is left out.

    Args:
        choices: the choice by config group, for each group whose choice is not the default.
        changes: the value by dotted key, for each key that was set to another value than its group gives it.
        known: every key of the config.
        every: name the groups of NOT_IN_NAMES, too.
    """
    left_out = ("hydra",) if every else ("hydra", *NOT_IN_NAMES)
    groups = [group for group in choices if group.split("/")[0] not in left_out]
    groups.sort(key=lambda group: (_place(group, GROUP_LABELS), group))
    keys = [key for key in changes if _counts(key)]
    keys.sort(key=lambda key: (_place(key, KEY_LABELS), key))
    others = {*known, *changes, *KEY_LABELS.values(), *GROUP_LABELS.values(), *groups, "seed"}
    labels = [_label(key, others) if key in known or key in KEY_LABELS else key for key in keys]
    return [
        *(_part(GROUP_LABELS.get(group, group), choices[group], group) for group in groups),
        *(_part(label, _spelt(changes[key]), key, changes[key]) for label, key in zip(labels, keys, strict=True)),
    ]


def _counts(key: str) -> bool:
    return (is_scientific(key) or key in PATHS) and key != "seed"


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


def _part(label: str, spelt: str, key: str, value: Any = None) -> str:
    """Return label=value as a name has it: with a digest of the exact value where the name can't show all of it.

    `value`: None if it is a group's choice, which is always a text.
    """
    unclear = isinstance(value, str) and (value in WORDS or _is_number(value))  # "1" and 1 would look alike
    folded = _safe(f"{label}={spelt}")
    shown = f"{label}={spelt}".replace("/", "_") if key in PATHS and "_" not in spelt else f"{label}={spelt}"
    return fitting(folded, ARM_LENGTH, _exact({}, {key: value or spelt}), unclear or folded != shown)


def fitting(text: str, length: int, exact: str = "", marked: bool = False) -> str:
    """Return a text cut to `length` characters; if it is cut, or `marked`, it ends with a digest of `exact`."""
    if len(text) <= length and not marked:
        return text
    return f"{text[: length - DIGEST - 1]}~{_digest(exact or text)}"


def _exact(choices: Mapping[str, str], changes: Mapping[str, Any]) -> str:
    """Return a text that only equal settings share."""
    counting = {key: canonical(value) for key, value in changes.items() if _counts(key)}
    return json.dumps([dict(choices), counting], sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]


def arm_name(parts: Sequence[str]) -> str:
    """Return the arm's part of a run's name: its parts, or "baseline" without any; cut to ARM_LENGTH characters."""
    return fitting(",".join(parts) or "baseline", ARM_LENGTH)


def run_name(arm: str, seed: Any) -> str:
    """Return e.g. "temperature=0.6,seed=1", a valid folder name on any file system; the caller adds the id."""
    return f"{arm},{_safe(f'seed={_spelt(seed)}')[:ARM_LENGTH]}"


def _place(name: str, order: Mapping[str, str]) -> int:
    return list(order).index(name) if name in order else len(order)


def _spelt(value: Any) -> str:
    """Return a value as a name spells it: a number as short as it can be without becoming another."""
    short = f"{value:.12g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _safe(part: str) -> str:
    return re.sub(r"[^\w.=+-]", "_", part, flags=re.ASCII)
