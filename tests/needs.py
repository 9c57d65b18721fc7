"""What some tests need beyond Python, make and git; a machine without it leaves these tests out.

If CI is set, no test is left out: there a test fails without what it needs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

SBIN = ("/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Need:
    """What the tests whose ids begin with `tests` need: all programs ("a|b": one of both), which `packages` have."""

    tests: str
    programs: tuple[str, ...]
    packages: str
    trial: str = ""
    """A command that must succeed as well."""
    modules: tuple[str, ...] = ()
    """Python's modules that must be installed; `make test` installs them where `packages` are."""


# Only with root do the nodes of that test get their own network. Without root they share the machine's: nothing needed.
NAMESPACES = [
    Need(
        "tests/slurm/test_nodes.py", ("ip", "unshare"), "iproute2 util-linux", "unshare --net --mount --pid --fork true"
    )
]
MOUNTS = "unshare --mount true" if os.geteuid() == 0 else "unshare --mount --map-root-user true"
NETWORK = "unshare --net" if os.geteuid() == 0 else "unshare --net --map-root-user"
NEEDS = (
    Need(
        "tests/slurm/",
        ("slurmctld", "slurmd", "sbatch", "slurmdbd", "mariadbd"),
        "slurmctld slurmd slurm-client slurmdbd mariadb-server",
    ),
    *(NAMESPACES if os.geteuid() == 0 else ()),
    Need("tests/analysis/test_report.py::test_a_browser_", ("chromium|chromium-browser|google-chrome",), "chromium"),
    Need("tests/experiments/tasks/math/", (), "", modules=("math_verify",)),
    Need("tests/experiments/tasks/reasoning_gym/", (), "gcc python3-dev", modules=("reasoning_gym",)),
    Need("tests/e2e/test_full_disk.py", ("unshare",), "util-linux", MOUNTS),
    Need("tests/e2e/test_read_only_home.py::test_a_run_", ("unshare",), "util-linux", MOUNTS),
    Need("tests/experiments/processes/test_limits.py::test_without_a_", ("unshare",), "util-linux", f"{NETWORK} true"),
    Need("tests/experiments/processes/test_ray_python.py::test_where_nothing_", ("unshare",), "util-linux", MOUNTS),
)


@cache
def lacking(need: Need) -> tuple[str, ...]:
    """Return what the machine lacks: programs, or the right to run a command."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *SBIN))
    missing = [one for one in need.programs if not any(shutil.which(name, path=path) for name in one.split("|"))]
    missing += [name for name in need.modules if find_spec(name) is None]
    if not missing and need.trial and subprocess.run(need.trial.split(), capture_output=True).returncode:
        missing = [f"the right to `{need.trial}`"]
    return tuple(missing)


def left_out() -> list[Need]:
    """Return the needs that this machine lacks, whose tests it leaves out; none if CI is set."""
    return [] if os.environ.get("CI") else [need for need in NEEDS if lacking(need)]


def message(needs: list[Need]) -> str:
    """Return one line: which tests are left out, what is missing, and what to install."""
    tests = ", ".join(f"{need.tests.rstrip('_')} (no {', '.join(lacking(need))})" for need in needs)
    packages = " ".join(dict.fromkeys(" ".join(need.packages for need in needs).split()))
    do = f"apt-get install {packages}, then make test" if packages else "make test"
    return f"left out: {tests}; CI runs them; to run them here: {do}"
