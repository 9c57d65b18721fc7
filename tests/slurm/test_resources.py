"""What the shipped presets ask SLURM for, and how much of a node Ray is told of."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.attempt import verl_config
from experiments.compose import CONFIG_DIR, compose_config, plain
from experiments.rundir import Attempt
from experiments.slurm.resources import Resources, resource_problems, resources, time_limit_seconds
from tests.slurm.conftest import launcher_defaults, smoke

PRESETS = sorted(file.stem for file in (CONFIG_DIR / "hardware").glob("*.yaml"))


@cache
def preset(name: str) -> dict[str, Any]:
    return plain(compose_config([f"hardware={name}"]), resolve=False)


def asked(name: str, algorithm: str, n: int) -> Resources:
    """Return what an arm asks for on a preset."""
    config = preset(name)
    device = config["trainer"]["device"]
    arm = {**config, "rollout": {"n": n}, "algorithm": {"adv_estimator": algorithm}, "trainer": {"device": device}}
    needs = resources(arm, launcher_defaults())
    assert resource_problems(needs, arm) == []
    return needs


@pytest.mark.parametrize("name", PRESETS)
def test_an_arm_that_needs_more_asks_for_more(name: str) -> None:
    """PPO has a critic, and a step of n = 8 has more samples: neither takes less of anything, alone or together."""

    def size(algorithm: str, n: int) -> tuple[int, int]:
        needs = asked(name, algorithm, n)
        return time_limit_seconds(needs.time or "0"), int((needs.mem or "0G").removesuffix("G"))

    for n in (1, 5, 8):
        (grpo_time, grpo_memory), (ppo_time, ppo_memory) = size("grpo", n), size("gae", n)
        assert ppo_time >= grpo_time and ppo_memory >= grpo_memory
        if name.startswith(("a100", "h100", "h200")):
            assert ppo_memory > grpo_memory
    for algorithm in ("grpo", "gae"):
        sizes = [size(algorithm, n) for n in (1, 5, 8)]
        assert sizes == sorted(sizes)


def test_the_article_s_machine_and_two_nodes_of_eight() -> None:
    shapes = {(algorithm, n): str(asked("a100x2", algorithm, n)) for algorithm in ("grpo", "gae") for n in (5, 8)}
    two = "--nodes=1  --ntasks-per-node=1  --gpus-per-node=2  --cpus-per-task=16"
    assert shapes == {
        ("grpo", 5): f"{two}  --mem=240G  --time=24:00:00",
        ("grpo", 8): f"{two}  --mem=240G  --time=40:00:00",
        ("gae", 5): f"{two}  --mem=360G  --time=36:00:00",
        ("gae", 8): f"{two}  --mem=360G  --time=60:00:00",
    }
    assert str(asked("h100x8n2", "grpo", 5)).startswith("--nodes=2  --ntasks-per-node=1  --gpus-per-node=8")


@pytest.mark.parametrize(("wanted", "given", "told"), [(None, "3", 3), (16, "3", 16), (None, None, None)])
def test_ray_is_told_of_the_job_s_cpus(
    wanted: int | None, given: str | None, told: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count the machine's; a number in the config stands over SLURM's."""
    config = {**smoke(), "ray_kwargs": {"ray_init": {**smoke()["ray_kwargs"]["ray_init"], "num_cpus": wanted}}}
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if given:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    verl = verl_config(config, Attempt(1, tmp_path), 6, {"TMPDIR": str(tmp_path)})
    assert verl.ray_kwargs.ray_init.num_cpus == told
    assert verl.ray_kwargs.ray_init.address == "local"
