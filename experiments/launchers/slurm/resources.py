"""The resources that a run asks SLURM for: those of the hardware preset, unless hydra.launcher sets others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from experiments.values import at

TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")  # minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS
MEMORY = re.compile(r"\d+[KMGT]?")
GPUS = re.compile(r"gpu(?::[^:,\d][^:,]*)?(?::(\d+))?(?:\(.*)?")  # an entry of a gres: gpu, gpu:2, gpu:a100:2
NOT_OF_A_NODE = ("nodes", "ntasks-per-node", "time", "signal")  # options that take nothing of a node


@dataclass(frozen=True)
class Resources:
    """The resources of a job's allocation, in sbatch's own words. Jobs with equal resources go into one array."""

    nodes: int = 1
    gpus_per_node: int = 0
    gres: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    warning_seconds: int | None = None
    """How many seconds before the time limit SLURM warns the job."""

    def flags(self) -> dict[str, str]:
        """Return sbatch's long options, by name, without dashes."""
        flags = {"nodes": str(self.nodes), "ntasks-per-node": "1"}
        if self.gres:
            flags["gres"] = self.gres
        elif self.gpus_per_node:
            flags["gpus-per-node"] = str(self.gpus_per_node)
        for name in ("cpus_per_task", "mem", "time"):
            if getattr(self, name) is not None:
                flags[name.replace("_", "-")] = str(getattr(self, name))
        if self.warning_seconds is not None:
            flags["signal"] = f"B:USR1@{self.warning_seconds}"  # B: only to our own process, which passes it on
        return flags

    def times(self, runs: int) -> Resources:
        """Return what so many runs ask for together in one job on one node; the time limit is that of each."""
        if runs == 1:
            return self
        cpus, mem = self.cpus_per_task, None if self.mem is None else str(self.mem)
        digits = "" if mem is None else mem.rstrip("KMGT")
        return replace(
            self,
            gpus_per_node=self.gpus_per_node * runs,
            gres=None if self.gres is None else ",".join(_more_gpus(part, runs) for part in self.gres.split(",")),
            cpus_per_task=None if cpus is None else cpus * runs,
            mem=None if mem is None else f"{int(digits) * runs}{mem[len(digits) :]}",
        )

    def of_a_node(self) -> str:
        """Return in words what this takes of a node, e.g. "--gpus-per-node=2 --cpus-per-task=16 --mem=240G"."""
        asked = {name: value for name, value in self.flags().items() if name not in NOT_OF_A_NODE}
        return " ".join(f"--{name}={value}" for name, value in asked.items()) or "a core"

    def __str__(self) -> str:
        return "  ".join(f"--{name}={value}" for name, value in self.flags().items())


def _more_gpus(entry: str, runs: int) -> str:
    """Return an entry of a gres with so many times the GPUs; an entry of anything else as it is."""
    count = GPUS.fullmatch(entry)
    if count is None:
        return entry
    if count[1] is None:
        return f"{entry}:{runs}"
    return f"{entry[: count.start(1)]}{int(count[1]) * runs}{entry[count.end(1) :]}"


NAMES = tuple(field.name for field in fields(Resources))


def resources(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Resources:
    """Return what a run needs: the entries of hardware.resources in its config whose `when` holds; later entries win.

    `settings`: hydra.launcher's values; those that are not null win over the entries.
    """
    hardware = config["hardware"]
    on_cpu = config["trainer"]["device"] == "cpu"  # there, gpus_per_node counts ranks
    values: dict[str, Any] = {
        "nodes": hardware["nodes"],
        "gpus_per_node": 0 if on_cpu else hardware["gpus_per_node"],
    }
    for entry in hardware.get("resources") or ():
        if all(at(config, key) == wanted for key, wanted in (entry.get("when") or {}).items()):
            values |= {name: value for name, value in entry.items() if name != "when"}
    values |= {name: settings[name] for name in NAMES if settings.get(name) is not None}
    return Resources(**{name: value for name, value in values.items() if name in NAMES})


def resource_problems(wanted: Resources, config: Mapping[str, Any]) -> list[str]:
    """Return a problem for each value that sbatch could not read, or that does not fit the config's hardware."""
    found = []
    for name in ("nodes", "gpus_per_node", "cpus_per_task", "warning_seconds"):
        value, least = getattr(wanted, name), 0 if name == "gpus_per_node" else 1
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            found.append(f"hydra.launcher.{name} must be a whole number of at least {least}, but is {value!r}")
    if wanted.time is not None and not TIME.fullmatch(str(wanted.time)):
        found.append(
            f'hydra.launcher.time must be minutes, HH:MM:SS or D-HH:MM:SS, but is {wanted.time!r}; try "24:00:00"'
        )
    if wanted.mem is not None and not MEMORY.fullmatch(str(wanted.mem)):
        found.append(f"hydra.launcher.mem must be a number with K, M, G or T, but is {wanted.mem!r}; try 64G")
    return found or _size_problems(wanted, config["hardware"], config["trainer"]["device"] == "cpu")


def _size_problems(wanted: Resources, hardware: Mapping[str, Any], on_cpu: bool) -> list[str]:
    """Return a problem if the allocation has other nodes, or fewer GPUs, than the config trains on."""
    found = []
    nodes, gpus = int(hardware["nodes"]), 0 if on_cpu else int(hardware["gpus_per_node"])
    if wanted.nodes != nodes:
        found.append(
            f"hydra.launcher.nodes must be hardware.nodes, which is {nodes}, but is {wanted.nodes}; set hardware.nodes"
        )
    name, given = "gpus_per_node", wanted.gpus_per_node
    counts = [GPUS.fullmatch(part) for part in (wanted.gres or "").split(",")]
    if wanted.gres:
        name, given = "gres", sum(int(count[1] or 1) for count in counts if count)
    if given < gpus:
        found.append(
            f"hydra.launcher.{name} must ask for hardware.gpus_per_node={gpus} GPUs or more, but asks for {given}; "
            "set hardware.gpus_per_node, or choose another hardware"
        )
    return found


def time_limit_seconds(time: str) -> int:
    """Return SLURM's time limit in seconds: "90" (minutes), "10:00" (MM:SS), "1:00:00", "2-12", "2-12:30:00"."""
    days, _, clock = str(time).rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:  # hours first
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:  # minutes first
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def partition_problem(time: str, partition: str | None, described: str) -> str | None:
    """Return a problem if no partition that the job may use allows its time limit: the job would wait for ever.

    Args:
        time: the job's time limit.
        partition: the partitions asked for, separated by commas; None: the cluster's default.
        described: what `scontrol --oneliner show partition` prints.
    """
    limits = {}
    for line in described.splitlines():
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        wanted = values.get("PartitionName") in partition.split(",") if partition else values.get("Default") == "YES"
        if wanted and "MaxTime" in values:
            limits[values["PartitionName"]] = values["MaxTime"]
    if not limits or any(
        not TIME.fullmatch(limit) or time_limit_seconds(time) <= time_limit_seconds(limit) for limit in limits.values()
    ):
        return None
    allowed = ", ".join(f"{limit} in {name}" for name, limit in limits.items())
    return (
        f"hydra.launcher.time must be at most {allowed}, but is {time}; lower it, or choose another partition (sinfo)"
    )
