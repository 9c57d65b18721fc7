"""checks/ray.py and processes/ray_cpus.py: Ray is told of enough CPUs, whatever the machine or the job has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.checks.ray import ray_problems
from experiments.processes import ray_cpus
from experiments.processes.ray_cpus import cpus_needed, cpus_offered
from experiments.project import CONFIG_DIR
from tests.experiments.right_config import with_values

Resolve = Callable[..., dict[str, Any]]
PRESETS = sorted(file.stem for file in (CONFIG_DIR / "hardware").glob("*.yaml"))
UNITS = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
TOLD = "ray_kwargs.ray_init.num_cpus"


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (("hardware=cpu",), 1 + 1 + 3),
        (("hardware=cpu", "hardware.gpus_per_node=5"), 1 + 1 + 15),
        (("hardware=h100x1",), 1 + 2 + 3),
        (("hardware=a100x2",), 1 + 2 + 6),
        (("hardware=a100x2", f"{UNITS}=8"), 1 + 8 + 6),
        (("hardware=h200x8n2",), 1 + 1 + 24),  # on each of two nodes: one of the two storage units
        (("hardware=a100x2", "transfer_queue.backend.storage_backend=MooncakeStore"), 1 + 6),
        (("hardware=a100x2", "reward.reward_manager.name=remote", "reward.num_workers=2"), 1 + 2 + 6 + 4),
    ],
)
def test_what_a_node_needs(resolved: Resolve, overrides: tuple[str, ...], needed: int) -> None:
    assert cpus_needed(resolved(*overrides)) == needed


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("of_the_job", ["1", "500", None])
def test_ray_gets_what_there_is_and_never_less_than_the_need(
    resolved: Resolve, monkeypatch: pytest.MonkeyPatch, name: str, of_the_job: str | None
) -> None:
    """A job of one CPU, a laptop with two: Ray's CPUs are logical."""
    monkeypatch.setattr(ray_cpus.os, "cpu_count", lambda: 2)
    config = with_values(resolved(f"hardware={name}"), {TOLD: None})
    assert cpus_offered(config, of_the_job) == max(int(of_the_job or 2), cpus_needed(config))
    assert ray_problems(config) == []


@pytest.mark.parametrize("hardware", ["cpu", "a100x2"])
@pytest.mark.parametrize("less", [1, 3, "many", 0.5])
def test_a_number_that_is_stated_must_suffice_on_every_device(resolved: Resolve, hardware: str, less: Any) -> None:
    config = resolved(f"hardware={hardware}", "model=qwen2.5-3b")
    needed = cpus_needed(config)
    given = needed - less if isinstance(less, int) else less
    (problem,) = ray_problems(with_values(config, {TOLD: given}))
    assert problem.startswith(f"{TOLD} must be null or a whole number of at least {needed} for hardware.gpus_per_node=")
    assert f"but is {given!r}" in problem and problem.endswith(f"; set {TOLD}={needed}")
    assert ray_problems(with_values(config, {TOLD: needed})) == []
