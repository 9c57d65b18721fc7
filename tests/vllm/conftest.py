from pathlib import Path

import pytest

from tests.vllm.model import save_wide


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model in a shape that vLLM knows."""
    return save_wide(tmp_path_factory.mktemp("model"))
