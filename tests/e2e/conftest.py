from pathlib import Path

import pytest

from tests.e2e.training import Command, train


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def straight(folder: Path) -> Command:
    """Four GRPO steps in one go, with W&B offline: what the other runs are held against."""
    return train(folder / "straight", "trainer.total_training_steps=4")
