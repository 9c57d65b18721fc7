"""Estimate the hours and the disk that planned runs will take, from similar runs or from the hardware's preset."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from experiments.models.weights import model_parameters
from experiments.store.memory_peak import peak_of
from experiments.store.metrics import step_times
from experiments.store.rundir import find_runs
from experiments.terminal import size
from experiments.values import at
from experiments.verl_keys import ACTOR, has_critic

if TYPE_CHECKING:
    from experiments.planning.plan import PlannedRun

BYTES = {"model": 4, "optimizer": 8, "hf_model": 4}  # of an fp32 parameter, by entry of checkpoint.save_contents
MOST_CONFIGS = 60  # finished runs whose configs are read, newest first: a folder of thousands must not delay a plan

# Runs with the same values of these keys take about the same time for a step, and the same memory.
LIKE = (
    *(
        "model.name",
        "algorithm.adv_estimator",
        "algorithm.filter_groups.enable",
        "actor_rollout_ref.rollout.n",
        "data.train_batch_size",
        "data.max_response_length",
    ),
    *("hardware.name", "hardware.nodes", "hardware.gpus_per_node", "hardware.fast"),
)
Kind = tuple[Any, ...]


@dataclass
class Measured:
    """What runs of one kind took."""

    seconds: list[float] = field(default_factory=list)
    """Of each run: its median perf/time_per_step."""
    memory: int = 0
    """The most bytes that one of them was seen to take; 0 if no run has measured it."""


@dataclass(frozen=True)
class Cost:
    """What the rest of a run will cost."""

    seconds_per_step: float | None
    """None if nothing was measured and the hardware's preset states nothing."""
    measured: int
    """In how many runs of the same kind the time was measured; 0 if the hardware's preset states it."""
    steps: int
    """Steps still to train."""
    devices: int
    disk: int
    """The most bytes that the run's checkpoints can take."""
    checkpoint: int
    """Bytes of one checkpoint; 0 for a model of unknown size."""
    memory: int = 0
    """The most bytes of memory that a run of the same kind took; 0 if that was not measured."""

    @property
    def hours(self) -> float:
        """Return the device-hours of the steps. Start-up is left out: on a CPU it takes less than a minute."""
        return (self.seconds_per_step or 0.0) * self.steps * self.devices / 3600


def costs(runs: Sequence[PlannedRun]) -> list[Cost]:
    """Return the cost of each run. Runs of the same kind are looked for in the runs folder of the first run."""
    kinds = {kind_of(run.config) for run in runs if run.action not in ("skip", "wait")}
    like = measured(runs[0].folder.path.parent, kinds) if kinds else {}
    return [_cost(run, like.get(kind_of(run.config), Measured())) for run in runs]


def _cost(run: PlannedRun, like: Measured) -> Cost:
    hardware, times = run.config["hardware"], like.seconds
    to_do = run.action not in ("skip", "wait")
    return Cost(
        seconds_per_step=median(times) if times else hardware["seconds_per_step"],
        measured=len(times),
        steps=max(run.steps - run.begins, 0) if to_do else 0,
        devices=int(hardware["nodes"]) * int(hardware["gpus_per_node"]),
        disk=disk_needed(run.config) if to_do else 0,
        checkpoint=sum(checkpoint_bytes(run.config).values()),
        memory=like.memory,
    )


def kind_of(config: Mapping[str, Any]) -> Kind:
    """Return the values of LIKE, which decide how long a run's steps take, and its memory."""
    values = (at(config, key) for key in LIKE)
    return tuple(value if isinstance(value, (str, int, float)) else str(value) for value in values)


def measured(runs_dir: Path, kinds: set[Kind]) -> dict[Kind, Measured]:
    """Return, for each kind, what the runs of that kind in a folder took; a kind without such runs is left out."""
    found: dict[Kind, Measured] = {}
    trained = [run for run in find_runs(runs_dir) if run.attempts()]
    trained.sort(key=lambda run: run.attempts()[-1].path.stat().st_mtime, reverse=True)
    for run in trained[:MOST_CONFIGS]:
        try:
            kind = kind_of(run.load_config())
            times = step_times(run) if kind in kinds else []  # a long run has many megabytes of rows
        except (UserError, OSError):  # a foreign or damaged folder: `experiments.runs list` reports it
            continue
        if times:
            like = found.setdefault(kind, Measured())
            like.seconds.append(median(times))
            like.memory = max(like.memory, peak_of(run))
    return found


def checkpoint_bytes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes of one checkpoint of each role that is trained ("actor", "critic"); 0 if the size is unknown."""
    model = config["model"]
    parameters = model_parameters(Path(model["path"]).expanduser()) or model["parameters"] or 0
    roles = {"actor": at(config, ACTOR), **({"critic": config["critic"]} if has_critic(config) else {})}
    found = {}
    for role, section in roles.items():
        contents = at(section, "checkpoint.save_contents") or ()
        found[role] = int(parameters) * sum(BYTES.get(content, 0) for content in contents if isinstance(content, str))
    return found


def disk_needed(config: Mapping[str, Any]) -> int:
    """Return the most bytes that a run's checkpoints can take; 0 for a model of unknown size.

    For each role these are the checkpoints that are kept (null: all) and the one that is being written.
    """
    saves, total = saves_of(config), 0
    for role, each in checkpoint_bytes(config).items():
        kept = at(config, f"trainer.max_{role}_ckpt_to_keep")
        total += each * (saves if kept is None else min(saves, kept + 1))
    return total


def saves_of(config: Mapping[str, Any]) -> int:
    """Return how many checkpoints a whole run saves: one every trainer.save_freq steps, and one after the last step."""
    steps, every = int(at(config, "trainer.total_training_steps")), int(at(config, "trainer.save_freq"))
    return -(-steps // every) if every > 0 else 0


def check_disk(folder: Path, needed: int) -> None:
    """Raise UserError if fewer than `needed` bytes are free where `folder` is or will be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder} must have {size(needed)} free, but has {size(free)}; make room, or set runs_dir to another disk"
        )
