"""What the tests of experiments/ share: composed configs, and waiting for real processes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from experiments.config.compose import compose_config, register_resolvers
from experiments.config.sweep_compose import Composer, default_choices
from experiments.planning.plan import PlannedRun, plan_runs
from experiments.project import CONFIG_DIR
from tests.experiments.right_config import Config, Make, with_values, write_rows

# On a shared machine, how long an example takes says nothing.
settings.register_profile("experiments", deadline=None)
settings.load_profile("experiments")

Compose = Callable[..., DictConfig]
Resolve = Callable[..., dict[str, Any]]
WaitFor = Callable[..., None]
Ask = Callable[..., list[PlannedRun]]

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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and data that a config can point at."""
    folder = tmp_path_factory.mktemp("preflight")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    tokenizer = Tokenizer(WordLevel({"w": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(model / "tokenizer.json"))
    save_file({"a": np.zeros((3, 5)), "b": np.zeros(7)}, model / "model.safetensors", metadata={"format": "pt"})
    write_rows(folder / "train.parquet", 64)
    write_rows(folder / "test.parquet", 8)
    return folder


@pytest.fixture(scope="session")
def make(resolved: Callable[..., Config], files: Path) -> Make:
    """Make a config that is right, or right but for some values."""
    base = with_values(
        resolved(),
        {
            "model.path": str(files / "model"),
            "data.train_files": str(files / "train.parquet"),
            "data.val_files": str(files / "test.parquet"),
        },
    )
    return lambda **values: with_values(base, {key.replace("__", "."): value for key, value in values.items()})


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    """Compose as a command does, in a Hydra that is running."""
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        yield Composer.of_running_hydra()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data sets of a file's plans are made, once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def ask(composer: Composer, data_dir: Path, tmp_path: Path) -> Ask:
    """Plan runs in a runs folder of the test's own."""

    def plan(*jobs: str) -> list[PlannedRun]:
        """Plan jobs, the overrides of each separated by blanks."""
        common = [*SHIPPED, "experiment=smoke", f"runs_dir={tmp_path / 'runs'}", f"data_dir={data_dir}"]
        return plan_runs([composer.compose([*common, *job.split()]) for job in jobs])

    return plan
