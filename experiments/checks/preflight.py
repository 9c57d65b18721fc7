"""Every check of a config that needs no training: all problems at once, each with what to do.

A check that reads a value which is faulty by itself is left out; all the others are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.checks.batch_sizes import batch_problems
from experiments.checks.cpu import cpu_problems, cpu_vllm_problems
from experiments.checks.data_files import data_problems
from experiments.checks.model_files import model_problems
from experiments.checks.parallelism import length_problems, rollout_problems, sequence_problems, token_problems
from experiments.checks.unread_keys import kl_problems, legacy_problems, rate_problems
from experiments.checks.user_code import code_problems
from experiments.checks.value_rules import faults
from experiments.models import folder as model_folder
from experiments.models.folder import shape_of
from experiments.models.remedies import memory_problems
from experiments.tasks.reward_check import reward_problems


class Faulty(Exception):
    """A check asked for a value that is known to be faulty, and so has nothing to say."""


class Sound(Mapping[str, Any]):
    """A resolved config, or a node of one, in which reading a faulty value raises Faulty."""

    def __init__(self, node: Mapping[str, Any], faulty: Mapping[str, str], prefix: str = "") -> None:
        self._node, self._faulty, self._prefix = node, faulty, prefix

    def __getitem__(self, name: str) -> Any:
        key, value = f"{self._prefix}{name}", self._node[name]
        if key in self._faulty:
            raise Faulty(key)
        inside = isinstance(value, Mapping) and any(fault.startswith(f"{key}.") for fault in self._faulty)
        return Sound(value, self._faulty, f"{key}.") if inside else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._node)

    def __len__(self) -> int:
        return len(self._node)


CHECKS = (
    batch_problems,
    kl_problems,
    legacy_problems,
    rate_problems,
    lambda config: rollout_problems(config, shape_of(config)),
    lambda config: sequence_problems(config, shape_of(config)),
    token_problems,
    lambda config: length_problems(config, model_folder.positions(str(config["model"]["path"]))),
    lambda config: memory_problems(config, shape_of(config)),
    cpu_problems,
    lambda config: cpu_vllm_problems(config, shape_of(config)),
    lambda config: model_problems(config),
    data_problems,
    reward_problems,
)


def problems_of(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a resolved config; an empty list if it can be started."""
    faulty = faults_of(config)
    sound, found = Sound(config, faulty) if faulty else config, list(faulty.values())
    for check in CHECKS:
        try:
            found += check(sound)
        except Faulty:
            continue
    return list(dict.fromkeys(found))


def faults_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the problems of single values, by their keys: numbers, choices, files of Python."""
    found = faults(config)
    return found | {key: problem for key, problem in code_problems(config).items() if key not in found}
