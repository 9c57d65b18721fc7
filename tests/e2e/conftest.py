import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from experiments.config.verl import override
from tests.e2e.training import (
    ANNEALED,
    Command,
    path_without_compilers,
    taken,
    train,
    train_edited,
    under_a_read_only_home,
)

PARTS_OF_SOME = """
def compute_score(data_source, solution_str, ground_truth, **others):
    if "<answer>" not in solution_str or "</answer>" not in solution_str:
        return 0.0
    return {"score": 0.1, "acc": False, "format": 1.0, "note": "read"}
"""


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
def plain_annealed(folder: Path) -> Command:
    """Two steps on veRL's own path, each at its own temperature, with a reward that is edited after the launch."""
    lean = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.total_training_steps=2")
    return train_edited(folder / "plain-annealed", "hardware.fast=false", *ANNEALED, *lean)


@pytest.fixture(scope="session")
def homeless(folder: Path) -> Callable[[str], Command]:
    """Return what trains a step under a read-only home, with a score that has its parts for some responses only.

    Its argument is hardware.fast, its result the same training for the same argument. W&B is offline.
    """

    @cache
    def trained(fast: str) -> Command:
        place = folder / f"homeless-{fast}"
        place.mkdir()
        score = place / "score.py"
        score.write_text(PARTS_OF_SOME)
        once = ("trainer.total_training_steps=1", "trainer.test_freq=1", "trainer.save_freq=-1")
        path = override("reward.custom_reward_function.path", str(score))
        return train(place, path, f"hardware.fast={fast}", *once, within=under_a_read_only_home(place / "home"))

    return trained
