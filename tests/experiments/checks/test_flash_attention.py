"""flash-attn: where it is missing another attention is chosen and told; asked for by name it is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.attempt.flash_attention import replace_flash
from experiments.checks.flash_attention import flash_problems
from experiments.config.compose import compose_config, plain
from experiments.models import flash_attention
from experiments.values import at

Resolve = Callable[..., dict[str, Any]]
GPU = ("model=qwen2.5-3b", "hardware=a100x2", "algorithm=ppo")
KEYS = tuple(f"{model}.model.override_config.attn_implementation" for model in ("actor_rollout_ref", "critic"))


def attentions(config: Any) -> list[str]:
    return [at(config, key) for key in KEYS]


def composed(*overrides: str) -> dict[str, Any]:
    """Return a config as a new process would compose it: the fixture `resolved` keeps what it has composed."""
    return plain(compose_config(overrides), resolve=True)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    def install(source: str) -> None:
        """Put a package flash_attn with this source where Python finds it."""
        (tmp_path / "flash_attn").mkdir()
        (tmp_path / "flash_attn" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    sys.modules.pop("flash_attn", None)  # else it would be there for the tests that come later


def test_what_is_chosen(installed: Callable[[str], None]) -> None:
    assert attentions(composed(*GPU)) == ["packed_sdpa"] * 2
    assert attentions(composed(*GPU, "critic.model.use_remove_padding=false")) == ["packed_sdpa", "sdpa"]
    installed("raise SystemError('a plan imports nothing')")
    assert attentions(composed(*GPU)) == ["flash_attention_2"] * 2
    assert flash_problems(composed(*GPU)) == []


def test_asked_for_by_name(resolved: Resolve) -> None:
    config = resolved(*GPU, *(f"{key}=flash_attention_2" for key in KEYS))
    assert flash_problems(config) == [
        f"{key} must be packed_sdpa or sdpa without the package flash-attn, but is flash_attention_2; leave it out, or "
        "install flash-attn (docs/gpu.md)"
        for key in KEYS
    ]
    grpo = resolved(*GPU[:2], f"{KEYS[0]}=flash_attention_3")
    assert len(flash_problems(grpo)) == 1, "without a critic its keys mean nothing"
    assert flash_problems(resolved(*GPU)) == flash_problems(resolved()) == []


@pytest.mark.parametrize("source", ["raise ImportError('undefined symbol: _ZN3c105')", "raise OSError('libcudart.so')"])
def test_what_is_installed_and_does_not_load_is_replaced_in_the_attempt(
    installed: Callable[[str], None], source: str
) -> None:
    """The plan was made where flash-attn is, or it is built for another torch."""
    installed(source)
    config = composed(*GPU, "critic.model.use_remove_padding=false")
    assert attentions(config) == ["flash_attention_2"] * 2
    verl = OmegaConf.create(config)
    said = str(replace_flash(verl))
    assert "flash-attn does not load here" in said and source.split("'")[1] in said
    assert attentions(OmegaConf.to_container(verl, resolve=True)) == ["packed_sdpa", "sdpa"]
    assert replace_flash(verl) is None, "nothing asks for it any more"


def test_what_loads_is_left_alone(resolved: Resolve, installed: Callable[[str], None]) -> None:
    installed("")
    config = composed(*GPU)
    verl = OmegaConf.create(config)
    assert replace_flash(verl) is None and OmegaConf.to_container(verl) == config
    assert replace_flash(OmegaConf.create(resolved())) is None, "a run on a CPU names its attention"
    assert flash_attention.is_installed()
