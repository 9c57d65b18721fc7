"""What the kernel's control groups (cgroups) allow this process, and whom the kernel has killed there for memory.

A cgroup's limits hold for all below it, so those above this process's own count, too: SLURM sets a job's limit there,
a container its own at the top. Both versions of cgroups are read; see the kernel's cgroup-v1/memory and cgroup-v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
# The kernel's files of version 1 and of version 2.
MEMORY = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
UNUSED = {1: "total_inactive_file", 2: "inactive_file"}  # in memory.stat
KILLS = {1: "memory.oom_control", 2: "memory.events"}


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float | None:
    """Return how many cores this process and its group may keep busy; None if nothing limits them."""
    found = []
    for folder, version in _folders("cpu", root, own):
        try:
            if version == 2:
                allowed, period = (folder / "cpu.max").read_text().split()
            else:
                allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(allowed) > 0:  # version 1 says -1, version 2 "max", where there is no limit
                found.append(int(allowed) / int(period))
        except (OSError, ValueError):
            continue
    return min(found, default=None)


def free_memory(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return how many bytes the limits still leave to this process; None if nothing limits it."""
    found = []
    for folder, version in _folders("memory", root, own):
        try:
            limit, used = (int((folder / name).read_text()) for name in MEMORY[version])
            unused = _counts(folder / "memory.stat").get(UNUSED[version], 0)  # the kernel drops such pages first
        except (OSError, ValueError):
            continue
        found.append(max(0, limit - used + unused))
    return min(found, default=None)


def killed_for_memory(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Return how many processes of this process's group the kernel has ever killed for memory; None if unknown."""
    for folder, version in _folders("memory", root, own):
        count = _counts(folder / KILLS[version]).get("oom_kill")
        if count is not None:
            return count
    return None


class MemoryKills:
    """The processes of this process's group that the kernel has killed for memory since this object was made."""

    def __init__(self) -> None:
        self.before = killed_for_memory()

    def number(self) -> int:
        """Return how many there are; 0 where nobody can tell."""
        now = killed_for_memory()
        return 0 if now is None or self.before is None else now - self.before


def _folders(controller: str, root: Path, own: Path) -> Iterator[tuple[Path, int]]:
    """Yield this process's folder for a controller and those above it, each with the version of cgroups.

    A container may show the path that its cgroup has on the host: then only the top is there.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    paths = {name: path for _, names, path in lines for name in names.split(",")}
    version = 1 if controller in paths and (root / controller).is_dir() else 2
    top = root / controller if version == 1 else root
    path = paths.get(controller if version == 1 else "", "/")
    folder = top if ".." in path else top / path.lstrip("/")
    for place in (folder, *folder.parents):
        if place.is_dir():
            yield place, version
        if place == top:
            return


def _counts(file: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line; none if it can't be read."""
    try:
        pairs = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
