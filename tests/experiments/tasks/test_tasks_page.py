"""docs/tasks.md: its commands can be composed, its installations are extras, and it lists what is refused."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest

from experiments.config.sweep_compose import Composer
from experiments.project import PROJECT_DIR
from experiments.tasks.reasoning_gym.offered import EVAL, PARSE_EXPR, REFUSED, VERSION
from tests.experiments.conftest import SHIPPED

PAGE = (PROJECT_DIR / "docs" / "tasks.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
COMMANDS = [line.split(" ", 3)[3] for line in LINES if line.startswith("python -m experiments.run")]
EXTRAS = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_composed(composer: Composer, command: str) -> None:
    overrides = [text for text in shlex.split(command) if text != "-m"]
    dataset = next((text.split("=")[1].split(",")[0] for text in overrides if text.startswith("task.dataset=")), None)
    others = [text for text in overrides if not text.startswith("task.dataset=")]
    config = composer.compose([*SHIPPED, *others, *([f"task.dataset={dataset}"] if dataset else [])]).resolved()
    assert config["task"]["name"] in ("gsm8k", "math", f"reasoning_gym_{dataset or 'chain_sum'}")


def test_the_page_names_what_there_is() -> None:
    assert len(COMMANDS) == 5
    installed = {extra for line in LINES for extra in re.findall(r"^pip install .*'\.\[([\w-]+)\]'", line)}
    assert installed == {"reasoning-gym", "math"} <= set(EXTRAS)
    assert EXTRAS["reasoning-gym"] == [f"reasoning-gym=={VERSION}"] and f"version {VERSION}," in PAGE
    assert set(EXTRAS["math"]) <= set(EXTRAS["dev"]), "the tests of math-verify are no tests that need more"
    for name in (*EVAL, *PARSE_EXPR, *REFUSED):
        assert f"`{name}`" in PAGE
    pins = (PROJECT_DIR / "constraints.txt").read_text().splitlines()
    for extra in ("reasoning-gym", "math"):
        assert re.sub(r"\[.*\]", "", EXTRAS[extra][0]) in pins
