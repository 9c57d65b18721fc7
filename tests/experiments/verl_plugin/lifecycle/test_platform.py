"""Test experiments/verl_plugin/lifecycle/platform.py: all that veRL asks of a device, ours answers."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import psutil
import pytest
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from experiments.verl_plugin.lifecycle.platform import CPUDeviceModule, PlatformCPU

# veRL calls these on code paths for GPUs only: vLLM and SGLang servers, CUDA IPC, async offloading.
GPU_ONLY = {"ipc_collect", "set_per_process_memory_fraction"}


@pytest.fixture
def platform() -> PlatformCPU:
    return PlatformCPU()


def test_verl_finds_the_platform_by_its_name(platform: PlatformCPU) -> None:
    assert PlatformRegistry.get("cpu") is PlatformCPU
    assert isinstance(platform, PlatformBase) and platform.is_available()
    assert (platform.device_name, platform.vendor_name) == ("cpu", "cpu")
    assert platform.communication_backend_name() == "gloo"
    assert platform.ray_resource_name() == "GPU"
    assert not platform.is_ipc_supported()
    assert platform.device_count() == 1


def test_the_current_device_is_one_that_torch_takes(platform: PlatformCPU) -> None:
    assert torch.ones(2, device=platform.current_device()).device.type == "cpu"
    assert torch.ones(2).to(platform.device_name).device.type == "cpu"


def test_every_name_that_verl_looks_up_on_a_device_is_there(platform: PlatformCPU) -> None:
    """The names come from the installed veRL's source: a version that calls a new one fails here, not in a training."""
    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.submodule_search_locations
    source = [file.read_text(encoding="utf-8") for file in Path(spec.submodule_search_locations[0]).rglob("*.py")]
    names = {name for text in source for name in re.findall(r"get_torch_device\(\)\.(\w+)", text)}
    assert len(names) > 10
    missing = {name for name in names - GPU_ONLY if not callable(getattr(platform.device_module, name, None))}
    assert not missing


def test_other_names_are_those_of_torch_cpu_and_no_more(platform: PlatformCPU) -> None:
    assert platform.device_module.current_stream is torch.cpu.current_stream
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = platform.device_module.no_such_name


def test_memory_is_the_process_s_own() -> None:
    device = CPUDeviceModule()
    before = device.memory_allocated()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    grown = device.memory_allocated()
    assert grown - before > 48 * 2**20
    assert device.memory_reserved() == pytest.approx(grown, rel=0.05)
    del block
    assert device.max_memory_allocated() >= grown, "the peak outlasts what caused it"
    device.reset_peak_memory_stats()
    assert device.max_memory_allocated() < grown
    free, total = device.mem_get_info()
    assert 0 < free <= total == psutil.virtual_memory().total


def test_the_random_state_can_be_kept_and_put_back(platform: PlatformCPU) -> None:
    device = platform.device_module
    platform.manual_seed(5)
    state = device.get_rng_state()
    first = torch.rand(4)
    assert not torch.equal(torch.rand(4), first)
    device.set_rng_state(state)
    assert torch.equal(torch.rand(4), first)
    platform.manual_seed_all(5)
    assert torch.equal(torch.rand(4), first)


def test_what_has_no_meaning_on_a_cpu_does_nothing(platform: PlatformCPU) -> None:
    platform.set_device(0)
    platform.synchronize()
    platform.empty_cache()
    platform.set_allocator_settings("expandable_segments:True")
    platform.device_module.set_device(0)
    platform.device_module.empty_cache()
    with platform.nvtx_range("update"):
        assert platform.get_device_capability() == (None, None)
    assert platform.ray_noset_envvars() == []
    assert platform.cudart() is None
