"""How `make test` shares the tests between two processes, which it leaves out, and what holds for all of them."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests import needs

# Ignored where the tests run in the background; what they start would inherit that.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
settings.register_profile("untimed", deadline=None)  # a test that fails on a busy machine tells nothing
settings.load_profile("untimed")

TOGETHER = ("tests/e2e/", "tests/slurm/")  # whose tests share trainings, or a machine's SLURM; the longest, so first


def group(nodeid: str) -> str:
    """Return what stays in one process: each of these folders, elsewhere each file, whose fixtures its tests share."""
    file = nodeid.split("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = tuple(need.tests for need in needs.left_out())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid.startswith(without)])
    items[:] = [item for item in items if not item.nodeid.startswith(without)]
    order = {item: [*TOGETHER, group(item.nodeid)].index(group(item.nodeid)) for item in items}
    items.sort(key=order.__getitem__)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if without := needs.left_out():
        terminalreporter.write_line(needs.message(without), yellow=True)


class ByGroup(LoadScopeScheduling):
    """Gives a process that is through with its group the next one."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Return the scheduler; it keeps the order of the collection."""
    config.option.loadscopereorder = False
    return ByGroup(config, log)
