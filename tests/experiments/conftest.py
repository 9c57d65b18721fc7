"""What the tests of experiments/ share: composed configs, and waiting for real processes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf

from experiments.compose import CONFIG_DIR, compose_config
from experiments.composer import default_choices

# On a shared machine, how long an example takes says nothing.
settings.register_profile("experiments", deadline=None)
settings.load_profile("experiments")

Compose = Callable[..., DictConfig]
Resolve = Callable[..., dict[str, Any]]
WaitFor = Callable[..., None]

# The tests speak about what is shipped, not about the developer's own conf/local/.
SHIPPED = ["~local"] if (CONFIG_DIR / "local" / "default.yaml").exists() else []


@cache
def compose_groups(choices: tuple[str, ...]) -> DictConfig:
    """Compose for group choices: it takes most of a second, so each combination is composed once a session."""
    return compose_config([*SHIPPED, *choices])


@pytest.fixture(scope="session")
def composed() -> Compose:
    """Compose a config from overrides: groups by Hydra, values then set in a copy, as Hydra sets them last."""
    defaults = {f"{group}={choice}" for group, choice in default_choices().items()}

    def compose(*overrides: str) -> DictConfig:
        chosen = [text for text in overrides if (CONFIG_DIR / text.split("=")[0]).is_dir()]
        config = copy.deepcopy(compose_groups(tuple(text for text in chosen if text not in defaults)))
        for item in OverridesParser.create().parse_overrides([text for text in overrides if text not in chosen]):
            OmegaConf.update(config, item.key_or_group, item.value())
        return config

    return compose


@pytest.fixture(scope="session")
def resolved(composed: Compose) -> Resolve:
    """Compose a config and resolve it to plain dicts and lists, fresh for each caller."""

    @cache
    def container(*overrides: str) -> Any:
        return OmegaConf.to_container(composed(*overrides), resolve=True)

    return lambda *overrides: copy.deepcopy(container(*overrides))


@pytest.fixture(scope="session")
def wait_for() -> WaitFor:
    """Wait until something about other processes is true; fail with a word on what did not happen."""

    def wait(true: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
            time.sleep(0.01)

    return wait
