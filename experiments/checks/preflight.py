"""All checks that a config must pass before it is started: every problem at once, each with what to do.

First each value is checked by itself. Then come the checks that compare values. A check that reads a faulty value is
left out, because it could say nothing true.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.checks.algorithms import algorithm_problems
from experiments.checks.batch_sizes import batch_problems
from experiments.checks.cpu import cpu_problems, cpu_vllm_problems
from experiments.checks.data_files import data_problems
from experiments.checks.flash_attention import flash_problems
from experiments.checks.folders import folder_problems
from experiments.checks.gpu_memory import memory_problems
from experiments.checks.model_files import model_path_problems, model_problems
from experiments.checks.parallelism import (
    length_problems,
    rollout_problems,
    sequence_problems,
    sharding_problems,
    token_problems,
)
from experiments.checks.ray import ray_problems
from experiments.checks.resume import resume_problems
from experiments.checks.unread_keys import kl_problems, legacy_problems, rate_problems
from experiments.checks.user_code import code_problems
from experiments.checks.value_rules import faults
from experiments.models import folder as model_folder
from experiments.models.folder import shape_of
from experiments.models.memory import Setup
from experiments.models.setup import setup_of
from experiments.models.shape import Shape
from experiments.tasks.reward_check import reward_problems
from experiments.values import Config


class Faulty(Exception):
    """A check asked for a value that is known to be faulty, so the check is left out."""


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


@dataclass(frozen=True)
class Model:
    """What the checks need to know about the base model, read once for all of them. None: not known."""

    shape: Shape | None
    positions: int | None
    """max_position_embeddings."""
    memory: Setup | None
    """What the config asks of a GPU's memory."""


@dataclass(frozen=True)
class Findings:
    """What is wrong with a config, and the memory setup that was read to find it out."""

    problems: list[str]
    """Each says what must be, what is and what to do; empty if the run can be started."""
    memory: Setup | None
    """What the config asks of a GPU's memory; None if not known."""


CHECKS: tuple[Callable[[Config, Model], list[str]], ...] = (
    lambda config, model: folder_problems(config),
    lambda config, model: algorithm_problems(config),
    lambda config, model: batch_problems(config),
    lambda config, model: kl_problems(config),
    lambda config, model: legacy_problems(config),
    lambda config, model: rate_problems(config),
    lambda config, model: rollout_problems(config, model.shape),
    lambda config, model: sequence_problems(config, model.shape),
    lambda config, model: sharding_problems(config),
    lambda config, model: token_problems(config),
    lambda config, model: length_problems(config, model.positions),
    lambda config, model: memory_problems(config, model.memory),
    lambda config, model: flash_problems(config),
    lambda config, model: ray_problems(config),
    lambda config, model: cpu_problems(config),
    lambda config, model: cpu_vllm_problems(config, model.shape),
    lambda config, model: model_path_problems(config),
    lambda config, model: model_problems(config),
    lambda config, model: data_problems(config),
    lambda config, model: resume_problems(config),
    lambda config, model: reward_problems(config),
)


def examine(config: Config, faults: Mapping[str, str]) -> Findings:
    """Return what is wrong with a resolved config, its faulty values first.

    `faults`: what `faults_of` says about the config. A check that reads a faulty value is left out.
    """
    sound, found = Sound(config, faults) if faults else config, list(faults.values())
    model = _read_model(sound)
    for check in CHECKS:
        with contextlib.suppress(Faulty):
            found += check(sound, model)
    return Findings(list(dict.fromkeys(found)), model.memory)


def _read_model(config: Config) -> Model:
    """Return what is known about the model; what follows from a faulty value stays None."""
    shape = positions = memory = None
    with contextlib.suppress(Faulty):
        shape, positions = shape_of(config), model_folder.positions(str(config["model"]["path"]))
        memory = setup_of(config, shape)
    return Model(shape, positions, memory)


def faults_of(config: Config) -> dict[str, str]:
    """Return the problems of single values (numbers, choices, Python files), by key."""
    found = faults(config)
    return found | {key: problem for key, problem in code_problems(config).items() if key not in found}
