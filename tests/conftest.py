"""Settings of all tests: how `make test` shares them between two processes, and which it leaves out."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests import needs

# A shell that runs the tests in the background has these signals ignored, and the tests' processes would inherit that.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
settings.register_profile("untimed", deadline=None)  # a test must not fail because the machine is busy
settings.load_profile("untimed")

# These tests share trainings (tests/e2e/conftest.py) or a SLURM cluster. They take longest, so they start first; then
# come the other trainings.
TRAININGS = "tests/e2e/"
SHARING = ("annealing", "frozen", "kills", "read_only_home", "resume", "score_parts", "task_runner", "training")
TOGETHER = (TRAININGS, "tests/slurm/")


def group(nodeid: str) -> str:
    """Return the group of a test. The tests of a group run in one process: those of TOGETHER, else those of a file."""
    file = nodeid.split("::")[0]
    if file.startswith(TRAININGS) and file.removeprefix(f"{TRAININGS}test_").removesuffix(".py") not in SHARING:
        return file
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def rank(nodeid: str) -> int:
    """Return how early a test starts, the earliest first."""
    own = group(nodeid)
    return TOGETHER.index(own) if own in TOGETHER else len(TOGETHER) + (not own.startswith(TRAININGS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = tuple(need.tests for need in needs.left_out())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid.startswith(without)])
    items[:] = [item for item in items if not item.nodeid.startswith(without)]
    items.sort(key=lambda item: rank(item.nodeid))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if without := needs.left_out():
        terminalreporter.write_line(needs.message(without), yellow=True)


class ByGroup(LoadScopeScheduling):
    """Gives the next group of tests to a process that has finished one."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Return the scheduler; it keeps the order of the collection."""
    config.option.loadscopereorder = False
    return ByGroup(config, log)
