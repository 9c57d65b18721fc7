"""What the tests of the plugin share: veRL on our platform, whichever test asked veRL for a platform first."""

from __future__ import annotations

import pytest
from verl.plugin.platform import platform_manager

from experiments.verl_plugin.lifecycle.platform import PlatformCPU


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """veRL keeps the platform that it finds first, in this process for good."""
    monkeypatch.setattr(platform_manager, "_current_platform", PlatformCPU())
