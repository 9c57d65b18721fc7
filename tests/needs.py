"""What some tests need of the machine beyond Python, make and git, and which of them a machine without it leaves out.

Where CI is set nothing is left out: there a test without what it needs fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

SBIN = ("/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Need:
    """What the tests whose ids begin with `tests` need: a program of each name ("a|b": one of them), in packages."""

    tests: str
    programs: tuple[str, ...]
    packages: str
    trial: str = ""
    """A command that must succeed as well."""


# Without root the nodes of that test share the machine's network, which takes nothing more.
NAMESPACES = [
    Need(
        "tests/slurm/test_nodes.py", ("ip", "unshare"), "iproute2 util-linux", "unshare --net --mount --pid --fork true"
    )
]
MOUNTS = "unshare --mount true" if os.geteuid() == 0 else "unshare --mount --map-root-user true"
NEEDS = (
    Need(
        "tests/slurm/",
        ("slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd"),
        "slurmctld slurmd slurm-client slurmdbd mariadb-server",
    ),
    *(NAMESPACES if os.geteuid() == 0 else ()),
    Need("tests/analysis/test_report.py::test_a_browser_", ("chromium|chromium-browser|google-chrome",), "chromium"),
    Need("tests/e2e/test_full_disk.py", ("unshare",), "util-linux", MOUNTS),
    Need("tests/experiments/processes/test_ray_python.py::test_where_nothing_", ("unshare",), "util-linux", MOUNTS),
)


@cache
def lacking(need: Need) -> tuple[str, ...]:
    """Return what the machine lacks of a need: programs, or the right to run one."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *SBIN))
    missing = [one for one in need.programs if not any(shutil.which(name, path=path) for name in one.split("|"))]
    if not missing and need.trial and subprocess.run(need.trial.split(), capture_output=True).returncode:
        missing = [f"the right to `{need.trial}`"]
    return tuple(missing)


def left_out() -> list[Need]:
    """Return the needs whose tests this machine leaves out; none where CI is set."""
    return [] if os.environ.get("CI") else [need for need in NEEDS if lacking(need)]


def message(needs: list[Need]) -> str:
    """Return one line: which tests are left out, for want of what, and what to install."""
    tests = ", ".join(f"{need.tests.rstrip('_')} (no {', '.join(lacking(need))})" for need in needs)
    packages = " ".join(dict.fromkeys(" ".join(need.packages for need in needs).split()))
    return f"left out: {tests}; CI runs them; to run them here: apt-get install {packages}"
