"""checks/cpu.py: a config can compose, and its run on a CPU would still fail, or never begin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.checks.cpu import cpu_problems

Resolve = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("threads", [0, -1, 1.5, None])
def test_threads_are_at_least_one(resolved: Resolve, threads: Any) -> None:
    config = resolved()
    config["hardware"]["threads"] = threads
    assert cpu_problems(config) == [f"hardware.threads must be a whole number of at least 1, but is {threads!r}; try 2"]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"model_type": "llama"}, "llama in float32"),
        ({"hidden_act": "gelu"}, "special qwen2 in float32"),
        ({"use_sliding_window": True}, "special qwen2 in float32"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "special qwen2 in float32"),
        ({"rope_parameters": {"rope_type": "linear"}}, "special qwen2 in float32"),
        ({}, None),
    ],
)
def test_the_fast_path_is_for_models_that_its_sampler_knows(
    resolved: Resolve, tmp_path: Path, change: dict[str, Any], kind: str | None
) -> None:
    """It refuses what Qwen2Sampler.supports would refuse at the first generation: see test_generate_qwen2.py."""
    config = resolved()
    folder = tmp_path / "model"
    shutil.copytree(config["model"]["path"], folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    config["model"]["path"] = str(folder)
    expected = f"hardware.fast must be false unless the model is a plain qwen2 in float32, but {folder} is {kind}; "
    assert cpu_problems(config) == ([f"{expected}set hardware.fast=false"] if kind else [])
    config["hardware"]["fast"] = False
    assert cpu_problems(config) == []


def test_on_gpus_nothing_is_asked(resolved: Resolve) -> None:
    assert cpu_problems(resolved("hardware=a100x8", "model=qwen2.5-3b")) == []
