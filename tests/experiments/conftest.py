"""What the tests of experiments/ share: composed configs, and waiting for real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from experiments.compose import CONFIG_DIR, compose_config

# On a shared machine, how long an example takes says nothing.
settings.register_profile("experiments", deadline=None)
settings.load_profile("experiments")

Compose = Callable[..., DictConfig]
WaitFor = Callable[..., None]

# The tests speak about what is shipped, not about the developer's own conf/local/.
SHIPPED = ("local=null",) if (CONFIG_DIR / "local" / "default.yaml").exists() else ()


@pytest.fixture(scope="session")
def composed() -> Compose:
    """Compose a config from overrides, each combination once (composing takes a second). The result is read-only."""
    made: dict[tuple[str, ...], DictConfig] = {}

    def compose(*overrides: str) -> DictConfig:
        if overrides not in made:
            made[overrides] = compose_config([*SHIPPED, *overrides])
            OmegaConf.set_readonly(made[overrides], True)
        return made[overrides]

    return compose


@pytest.fixture(scope="session")
def resolved(composed: Compose) -> Callable[..., dict[str, Any]]:
    """Compose a config and resolve it to plain dicts and lists, fresh for each caller."""

    def resolve(*overrides: str) -> dict[str, Any]:
        config = OmegaConf.to_container(composed(*overrides), resolve=True)
        assert isinstance(config, dict)
        return config

    return resolve


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    """Wait until something about other processes is true; fail with a word on what did not happen."""

    def wait(true: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
            time.sleep(0.01)

    return wait
