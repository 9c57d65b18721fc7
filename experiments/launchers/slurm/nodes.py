"""Whether nodes that are down, drained or reserved at present could run a job: then it waits for them, and is no error.

`sbatch --test-only` says the same of a job that no node can ever run.
"""

from __future__ import annotations

import re

from experiments.launchers.slurm.commands import SlurmError, call
from experiments.launchers.slurm.resources import GPUS, Resources

# Words of a node's state in which it starts no job.
AWAY = {
    *("DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "MAINTENANCE", "REBOOT_ISSUED", "REBOOT_REQUESTED"),
    *("NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "RESERVED", "UNKNOWN"),
}
UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


def waited_for(needs: Resources, partition: str | None) -> str | None:
    """Return in words which nodes a job waits for; None if no nodes of its partitions are large enough for it.

    `partition`: the partitions asked for, separated by commas; None: the cluster's default.
    """
    try:
        fitting = [node for node in _nodes(partition) if _fits(node, needs)]
    except SlurmError:
        return None
    away = [f"{node['NodeName']} is {node['State'].lower()}{_reason(node)}" for node in fitting if _is_away(node)]
    return ", ".join(away[:4]) + (", ..." if len(away) > 4 else "") if away and len(fitting) >= needs.nodes else None


def most_on_a_node(needs: Resources, wanted: int, partition: str | None) -> int | None:
    """Return how many runs with these needs one node has room for, `wanted` at most; None if SLURM does not say.

    `partition`: as in `waited_for`. Nodes that are down count too: a job waits for them.
    """
    try:
        nodes = _nodes(partition)
    except SlurmError:
        return None
    return next((runs for runs in range(wanted, 0, -1) if any(_fits(node, needs.times(runs)) for node in nodes)), 0)


def _nodes(partition: str | None) -> list[dict[str, str]]:
    """Return what SLURM says of each node of the partitions. Raises SlurmError."""
    partitions = set(partition.split(",")) if partition else _default_partitions()
    nodes = [_fields(line) for line in call("scontrol", "--oneliner", "show", "node").splitlines()]
    return [node for node in nodes if not partitions or partitions & set(node.get("Partitions", "").split(","))]


def _default_partitions() -> set[str]:
    lines = map(_fields, call("scontrol", "--oneliner", "show", "partition").splitlines())
    return {line["PartitionName"] for line in lines if line.get("Default") == "YES"}


def _fields(line: str) -> dict[str, str]:
    """Return the fields of a line of `scontrol --oneliner`. Only Reason has blanks, and it is the last."""
    before, _, reason = line.partition(" Reason=")
    fields = dict(word.split("=", 1) for word in before.split() if "=" in word)
    return {**fields, "Reason": reason.rpartition(" [")[0].strip() or reason.strip()}


def _fits(node: dict[str, str], needs: Resources) -> bool:
    """Return whether a node has what a job needs of each."""
    wanted = _gpus(needs.gres) if needs.gres else needs.gpus_per_node
    return (
        int(node.get("CPUTot", 0)) >= (needs.cpus_per_task or 1)
        and int(node.get("RealMemory", 0)) >= _megabytes(needs.mem)
        and _gpus(node.get("Gres", "")) >= wanted
    )


def _gpus(gres: str) -> int:
    counts = [GPUS.fullmatch(part) for part in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(int(count[1] or 1) for count in counts if count)


def _megabytes(memory: str | None) -> float:
    text = str(memory or 0)
    return float(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else float(text)


def _is_away(node: dict[str, str]) -> bool:
    state = node.get("State", "")
    return state.endswith("*") or bool(AWAY & set(re.split(r"[+*~#!%$@^-]", state)))


def _reason(node: dict[str, str]) -> str:
    return f" ({node['Reason']})" if node["Reason"] else ""
