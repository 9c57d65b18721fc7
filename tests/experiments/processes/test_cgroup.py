"""What cgroups of both versions allow, in folders that look like the kernel's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.launchers import machine
from experiments.processes import cgroup

TABLES = {
    1: "9:memory:/slurm/job_7/task_0\n8:cpuset:/\n3:cpu,cpuacct:/slurm/job_7/task_0\n0::/\n",
    2: "0::/slurm/job_7/task_0\n",
}


def tree(root: Path, version: int, files: dict[str, str]) -> tuple[Path, Path]:
    """Make a process's cgroups, four levels deep, and return (root, table). {"job_7/memory.max": its text}."""
    tops = [root / "memory", root / "cpu"] if version == 1 else [root]
    for top in tops:
        (top / "slurm" / "job_7" / "task_0").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        top = root if version == 2 else root / name.rpartition("/")[2].split(".")[0]
        (top / name).write_text(text)
    (root / "table").write_text(TABLES[version])
    return root, root / "table"


def test_a_limit_above_counts_for_all_below_it(tmp_path: Path) -> None:
    of_two = {
        "slurm/job_7/memory.max": "5000\n",
        "slurm/job_7/memory.current": "4000\n",
        "slurm/job_7/memory.stat": "anon 3000\ninactive_file 700\n",
        "slurm/job_7/task_0/memory.max": "max\n",
        "slurm/job_7/task_0/memory.current": "10\n",
        "slurm/memory.max": "90000\n",
        "slurm/memory.current": "4000\n",
        "slurm/job_7/cpu.max": "150000 100000\n",
        "cpu.max": "max 100000\n",
    }
    of_one = {
        "slurm/job_7/memory.limit_in_bytes": "5000\n",
        "slurm/job_7/memory.usage_in_bytes": "4000\n",
        "slurm/job_7/memory.stat": "inactive_file 1\ntotal_inactive_file 700\n",
        "memory.limit_in_bytes": f"{2**63 - 4096}\n",
        "memory.usage_in_bytes": "4000\n",
        "slurm/job_7/cpu.cfs_quota_us": "150000\n",
        "slurm/job_7/cpu.cfs_period_us": "100000\n",
        "cpu.cfs_quota_us": "-1\n",
        "cpu.cfs_period_us": "100000\n",
    }
    for version, files in ((2, of_two), (1, of_one)):
        where = tree(tmp_path / str(version), version, files)
        assert cgroup.free_memory(*where) == 1700 and cgroup.cpu_quota(*where) == 1.5, version


def test_without_limits_all_of_the_machine_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in (1, 2):
        where = tree(tmp_path / str(version), version, {})
        assert cgroup.free_memory(*where) is None and cgroup.cpu_quota(*where) is None
        assert cgroup.killed_for_memory(*where) is None
    assert cgroup.free_memory(tmp_path / "no", tmp_path / "such") is None
    monkeypatch.setattr(cgroup, "free_memory", lambda: 1700)
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: 1.5)
    assert machine.free_memory() == 1700 and machine.cores() == 1
    monkeypatch.setattr(cgroup, "free_memory", lambda: None)
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: None)
    assert machine.free_memory() > 2**20 and machine.cores() == len(os.sched_getaffinity(0))


def test_a_container_that_sees_only_its_own_top(tmp_path: Path) -> None:
    for table in ("0::/system.slice/docker-1.scope\n", "0::/../../outside\n"):
        (tmp_path / "table").write_text(table)
        (tmp_path / "memory.max").write_text("5000")
        (tmp_path / "memory.current").write_text("1000")
        assert cgroup.free_memory(tmp_path, tmp_path / "table") == 4000


def test_who_was_killed_for_memory(tmp_path: Path) -> None:
    one = {"slurm/job_7/task_0/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"}
    two = {"slurm/job_7/task_0/memory.events": "low 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"}
    for version, files in ((1, one), (2, two)):
        assert cgroup.killed_for_memory(*tree(tmp_path / str(version), version, files)) == 3


def test_a_process_that_only_died_is_not_counted() -> None:
    kills = cgroup.MemoryKills()
    subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    assert kills.number() == 0
