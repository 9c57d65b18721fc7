"""Where runs are executed side by side: as many at once as this machine has devices, cores and memory for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from experiments.attempt.devices import check_memory
from experiments.errors import UserError
from experiments.launchers import machine
from experiments.launchers.device_locks import DeviceLock, lock_device
from experiments.launchers.machine import Gpus
from experiments.planning.cost import Cost, Kind, costs, kind_of
from experiments.planning.plan import PlannedRun
from experiments.terminal import counted, hours_text, size
from experiments.values import Config, is_number, is_whole

GIB = 2**30
# Of a small model's run, where none was measured; docs/speed.md has 2.3 GiB with hardware.fast=true, and 4.4 without.
ARM_MEMORY, PLAIN_MEMORY = 2.5 * GIB, 4.5 * GIB
# Weights, gradient and Adam's two moments of a policy in fp32, and the rollout server's weights; then the reference's.
BYTES_A_PARAMETER, REFERENCE_BYTES = 20, 4
MARGIN = 1.1  # a run is looked at every 10 seconds, so its highest moment may have been missed
Peaks = Mapping[Kind, int]  # bytes
JOBS = "hydra.launcher.jobs"


@dataclass
class Place:
    """What one run is executed on."""

    number: int
    """Counts from 0; two runs at the same time have two numbers."""
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them; empty on a CPU, and where nobody can tell the GPUs of this machine."""
    locks: Sequence[DeviceLock] = ()


def on_cpu(config: Config) -> bool:
    """Return whether a run trains on this machine's CPU."""
    return bool(config["trainer"]["device"] == "cpu")


def ranks_of(config: Config) -> int:
    """Return how many devices of one machine a run takes."""
    return int(config["trainer"]["n_gpus_per_node"])


def memory_of(config: Config, peaks: Peaks) -> float:
    """Return the bytes of memory that a run on a CPU needs: what runs of its kind took, else an estimate."""
    if peak := peaks.get(kind_of(config)):
        return peak * MARGIN
    base = ARM_MEMORY if config["hardware"]["fast"] else PLAIN_MEMORY
    parameters = config["model"]["parameters"] or 0
    return base + ranks_of(config) * parameters * (BYTES_A_PARAMETER + REFERENCE_BYTES)


@dataclass
class Machine:
    """What there is for runs; read once, so that a plan and a launch decide by the same numbers."""

    cores: int = field(default_factory=machine.cores)
    memory: int = field(default_factory=machine.free_memory)
    gpus: Gpus | None = field(default_factory=machine.gpus)
    torch_knows_gpus: bool = field(default_factory=machine.torch_knows_gpus)
    peaks: dict[Kind, int] = field(default_factory=dict)
    """The most bytes of memory that a run of a kind took, for each kind that `learn` was told of."""

    def learn(self, runs: Sequence[PlannedRun], found: Sequence[Cost]) -> None:
        """Note how much memory runs like these took, as their costs tell it."""
        self.peaks |= {kind_of(run.config): cost.memory for run, cost in zip(runs, found, strict=True)}


def at_once(configs: Sequence[Config], jobs: Any = None, here: Machine | None = None) -> int:
    """Return how many of these runs are executed at once. UserError if that can't be as asked.

    Args:
        configs: resolved configs of runs that have something left to do.
        jobs: hydra.launcher.jobs: how many are wanted; None: as many as there are devices, cores and memory for.
    """
    if jobs is not None and not is_whole(jobs, 1):
        raise UserError(f"{JOBS} must be null or a whole number of at least 1, but is {jobs!r}; try {JOBS}=2")
    if not configs:
        return 1
    here = here or Machine()
    problems = _too_few_gpus(configs, here)
    if problems:
        raise UserError(*problems)
    fits, why = _room(configs, here)
    if jobs is not None and jobs > fits:
        raise UserError(f"{JOBS} must be at most {fits}, since {why}, but is {jobs}; set {JOBS}={fits}")
    return min(jobs or _wanted(configs, here, fits), len(configs))


def _too_few_gpus(configs: Sequence[Config], here: Machine) -> list[str]:
    """Return a problem if a run needs more GPUs than this process may use."""
    if here.gpus is None:
        return []
    there = len(here.gpus.names)
    needed = max((ranks_of(config) for config in configs if not on_cpu(config)), default=0)
    if needed <= there:
        return []
    return [
        f"hardware.gpus_per_node must be at most {there}, the GPUs that this process may use "
        f"({here.gpus.source}), but is {needed}; choose hardware= for what is here, or hydra/launcher=slurm"
    ]


def _room(configs: Sequence[Config], here: Machine) -> tuple[int, str]:
    """Return how many runs fit at once at most, and what limits them."""
    gpu = [config for config in configs if not on_cpu(config)]
    if gpu:
        if here.gpus is None:
            return 1, "nobody can tell which GPUs this machine has (no nvidia-smi, and CUDA_VISIBLE_DEVICES is not set)"
        ranks = max(map(ranks_of, gpu))
        there = len(here.gpus.names)
        return there // ranks, f"{counted(there, 'GPU')} can be used and a run takes {ranks}"
    need = max(memory_of(config, here.peaks) for config in configs)
    return max(1, int(here.memory // need)), f"{size(here.memory)} of memory are free and a run takes {size(int(need))}"


def _wanted(configs: Sequence[Config], here: Machine, fits: int) -> int:
    """Return how many runs to execute at once if nobody says it: on a CPU no more than there are cores."""
    if any(not on_cpu(config) for config in configs):
        return fits
    return max(1, min(fits, here.cores // max(map(ranks_of, configs))))


def outlook(runs: Sequence[PlannedRun], jobs: Any, here: Machine, starting: bool) -> tuple[int, list[str]]:
    """Return how many of the planned runs are executed at once, and what the plan says about it, as lines.

    UserError if they can't be executed here; a plan alone (not `starting`) may be for another machine.
    """
    todo = [run for run in runs if run.action not in ("skip", "wait")]
    configs = [run.config for run in todo]
    if not starting and (jobs is None or is_whole(jobs, 1)) and _too_few_gpus(configs, here):
        return 1, []
    found: list[Cost] = []
    if len(todo) > 1:
        found = costs(todo)
        here.learn(todo, found)
    number = at_once(configs, jobs, here)
    if starting:
        _check_gpus(configs, here)
    if not found:
        return number, []
    hours = sum(cost.hours / cost.devices for cost in found if cost.devices) / number
    how = f"{number} at once" if number > 1 else "one after the other"
    return number, [f"on this machine: {how}" + (f", about {hours_text(hours)} hours in all" if hours else "")]


def _check_gpus(configs: Sequence[Config], here: Machine) -> None:
    """Raise UserError if the runs that train on GPUs could not, because of this machine's torch or GPUs' memory."""
    stated = [config["hardware"].get("memory_gib") for config in configs if not on_cpu(config)]
    if not stated:
        return
    if not here.torch_knows_gpus:
        raise UserError(
            "torch must be built for CUDA to train on GPUs, but the installed one is built for CPUs; install `.[gpu]` "
            "in a new venv, as docs/gpu.md says, or set hardware=cpu"
        )
    check_memory(max(filter(is_number, stated), default=None))


def threads_for(places: int, here: Machine | None = None) -> int:
    """Return how many threads the training processes of each of so many runs may use together."""
    return max(1, (here or Machine()).cores // places)


class Places:
    """The places of one launch: `take` gives one to a run, `give_back` frees it."""

    def __init__(
        self,
        number: int,
        gpus: Gpus | None,
        free_memory: Callable[[], int] = machine.free_memory,
        peaks: Peaks = MappingProxyType({}),
    ) -> None:
        self.number, self.free_memory, self.peaks = number, free_memory, peaks
        self.gpus = gpus
        self.taken: dict[int, Place] = {}
        self.full = False
        """Whether the run under way must be alone."""

    def take(self, config: Mapping[str, Any], run: str, alone: bool = False) -> Place | str:
        """Return a place for a run, or in words what it waits for. `alone`: only while no other run is executed."""
        if len(self.taken) >= self.number or self.full or (alone and self.taken):
            return "its turn"
        ranks = ranks_of(config)
        number = min(set(range(self.number)) - self.taken.keys())
        if on_cpu(config):
            if self.taken and self.free_memory() < (need := memory_of(config, self.peaks)):
                return f"memory: {size(self.free_memory())} are free, and it takes {size(int(need))}"
            place: Place | str = Place(number)
        elif self.gpus is None:
            place = Place(number)
        else:
            place = self._lock(number, ranks, self.gpus.names, run)
        if isinstance(place, Place):
            self.taken[number], self.full = place, alone
        return place

    def _lock(self, number: int, ranks: int, names: Sequence[str], run: str) -> Place | str:
        """Return a place with so many free GPUs, locked; or in words who has the others."""
        own = {name for place in self.taken.values() for name in place.gpus}
        locks: list[DeviceLock] = []
        held = []
        for name in names:
            if name in own or len(locks) == ranks:
                continue
            lock = lock_device(name, run)
            if isinstance(lock, DeviceLock):
                locks.append(lock)
            else:
                held.append(f"GPU {name}: {lock}")
        if len(locks) == ranks:
            return Place(number, tuple(lock.name for lock in locks), locks)
        for lock in locks:
            lock.release()
        return "; ".join(held) or "its turn"

    def give_back(self, place: Place) -> None:
        """Free a place and its GPUs."""
        for lock in place.locks:
            lock.release()
        del self.taken[place.number]
        self.full = False
