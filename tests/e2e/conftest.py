import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import pytest

from experiments.store.rundir import find_runs
from tests.e2e.parts import parts
from tests.e2e.training import (
    ANNEALED,
    Command,
    ended,
    path_without_compilers,
    rows,
    start_edited,
    taken,
    train,
    under_a_read_only_home,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose name has almost all that a file system takes: shells, Hydra and veRL must take it too.

    Only a colon is missing, which PYTHONPATH can't have.
    """
    return tmp_path_factory.mktemp("a user's é2e #1 [%=,$*]\n~\"?&;{x}\\ ")


@pytest.fixture(scope="session")
def straight(folder: Path) -> Command:
    """Four GRPO steps in one attempt, with W&B offline: the run with which the other runs are compared.

    It has no compiler, and the default ports of Ray, its dashboard, its clients and torch are taken.
    """
    path = path_without_compilers(folder / "bin")
    assert not any(shutil.which(name, path=path) for name in ("cc", "gcc", "c++", "g++", "clang", "make"))
    with taken((6379, 8265, 10001, 29500)):
        return train(folder / "straight", "trainer.total_training_steps=4", PATH=path)


@pytest.fixture(scope="session")
def own(folder: Path) -> Callable[[str], Command]:
    """Return a function that trains once for each value of hardware.fast, its argument, and returns that training.

    The home is read-only, W&B is offline, each step has its own temperature, and SCORE is edited after the start. On
    the fast path two steps are trained, then a third in a second process; on the plain path the third loses its task
    runner.
    """

    @cache
    def trained(fast: str) -> Command:
        place = folder / f"own-{fast}"
        place.mkdir()
        within = under_a_read_only_home(place / "home")
        often = (f"hardware.fast={fast}", "trainer.test_freq=1", "trainer.save_freq=2", "hydra.launcher.retries=0")
        if fast == "false":
            command = start_edited(place, *ANNEALED, *often, "trainer.total_training_steps=3", within=within)
            lose_task_runner(command, place, after=2)
            return ended(command, place, code=1)
        for steps in (2, 3):
            command = start_edited(place, *ANNEALED, *often, f"trainer.total_training_steps={steps}", within=within)
            done = ended(command, place)
        return done

    return trained


def lose_task_runner(command: subprocess.Popen[str], folder: Path, after: int) -> None:
    """Kill veRL's task runner as soon as so many steps are recorded."""
    deadline = time.monotonic() + 300
    while not any(after in rows(run) for run in find_runs(folder / "runs")):
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)
    next(process for kind, process in parts(psutil.Process(command.pid)) if kind == "TaskRunner").kill()
