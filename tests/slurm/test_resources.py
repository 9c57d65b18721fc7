"""What the shipped presets ask SLURM for, what an allocation must have, and how many CPUs Ray is told of."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.attempt.environment import verl_config
from experiments.config.compose import compose_config, plain
from experiments.errors import UserError
from experiments.launchers.slurm.launch import warned_in_time
from experiments.launchers.slurm.resources import Resources, resource_problems, resources, time_limit_seconds
from experiments.launchers.slurm.script import Settings, job_script
from experiments.planning.cost import costs
from experiments.project import CONFIG_DIR
from experiments.store.rundir import Attempt, RunDir
from tests.slurm.conftest import Sweeps, launcher_defaults, smoke

PRESETS = sorted(file.stem for file in (CONFIG_DIR / "hardware").glob("*.yaml"))


@cache
def preset(name: str) -> dict[str, Any]:
    return plain(compose_config([f"hardware={name}"]), resolve=False)


def asked(name: str, algorithm: str, n: int) -> Resources:
    """Return the resources that an arm asks for with a hardware preset."""
    config = preset(name)
    device = config["trainer"]["device"]
    arm = {**config, "rollout": {"n": n}, "algorithm": {"adv_estimator": algorithm}, "trainer": {"device": device}}
    needs = resources(arm, launcher_defaults())
    assert resource_problems(needs, arm) == []
    return needs


@pytest.mark.parametrize("name", PRESETS)
def test_an_arm_that_needs_more_asks_for_more(name: str) -> None:
    """PPO has a critic, and n = 8 gives more samples per step. Neither may ask for less of anything, nor may both."""

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


@pytest.mark.parametrize(("wanted", "given", "told"), [(None, "30", 30), (None, "3", 5), (16, "3", 16)])
def test_ray_is_told_of_the_job_s_cpus(
    wanted: int | None, given: str, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself Ray would count the machine's CPUs. A number in the config wins over SLURM's; this run needs 5."""
    config = {**smoke(), "ray_kwargs": {"ray_init": {**smoke()["ray_kwargs"]["ray_init"], "num_cpus": wanted}}}
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    verl = verl_config(config, RunDir(tmp_path), Attempt(1, tmp_path), 6, {"TMPDIR": str(tmp_path)})
    assert verl.ray_kwargs.ray_init.num_cpus == told
    assert verl.ray_kwargs.ray_init.address == "local"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"gpus_per_node": 1},
            "hydra.launcher.gpus_per_node must ask for hardware.gpus_per_node=2 GPUs .* asks for 1;",
        ),
        ({"gres": "gpu:a100:1"}, "hydra.launcher.gres must ask for hardware.gpus_per_node=2 GPUs .* asks for 1; set"),
        ({"gres": "gpu"}, "hydra.launcher.gres must ask .* asks for 1;"),
        ({"gres": "lustre:1"}, "hydra.launcher.gres must ask .* asks for 0;"),
        ({"gres": "gpu:9"}, "Requested node configuration is not available"),
        ({"gres": "lustre:1,gpu:9"}, "SLURM must accept the jobs"),
    ],
)
def test_fewer_gpus_than_the_training_is_laid_out_for(sweep: Sweeps, values: dict[str, Any], said: str) -> None:
    def on_two(config: dict[str, Any], seed: int) -> None:
        config["trainer"]["device"] = "cuda"
        config["hardware"]["gpus_per_node"] = 2

    with pytest.raises(UserError, match=said):
        sweep("train", change=on_two).launch(**values)


def test_a_time_limit_that_holds_no_step(sweep: Sweeps, tmp_path: Path) -> None:
    """The time of a step is the preset's estimate or, unknown to the preset, what a run of the same kind took."""

    def slow(config: dict[str, Any], seed: int) -> None:
        config["hardware"]["seconds_per_step"] = 600 if seed == 1 else None

    stated = sweep("train", change=slow)
    with pytest.raises(UserError, match=r"must hold a step \(600 s, estimated\) and then the 20 s .* to 11 minutes"):
        stated.launch(time="10:00")
    measured = sweep("train", "train", change=slow)
    measured.runs = measured.runs[1:]
    before = RunDir(tmp_path / "runs" / "seed=9-0123abcd")
    before.create(yaml.safe_dump(measured.runs[0].config), {})
    rows = [{"step": step, "data": {"perf/time_per_step": 700.0}} for step in (1, 2)]
    before.new_attempt().metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(UserError, match=r"must hold a step \(700 s, estimated\)"):
        measured.launch(time="10:00")


@pytest.mark.parametrize(
    ("step", "parameters", "warning_seconds"), [(1, 1e6, 120), (144, 3.09e9, 240), (144, 6e9, 300)]
)
def test_the_warning_holds_a_step_and_a_checkpoint(
    sweep: Sweeps, step: float, parameters: float, warning_seconds: int
) -> None:
    def sized(config: dict[str, Any], seed: int) -> None:
        config["hardware"]["seconds_per_step"] = step
        config["model"] |= {"path": "somebody/large", "parameters": parameters}  # on the hub: no files to count

    (planned,) = sweep("train", change=sized).runs
    (cost,) = costs([planned])
    needs = warned_in_time(resources(planned.config, launcher_defaults()), cost)
    assert needs.flags()["signal"] == f"B:USR1@{warning_seconds}"
    script = job_script(tmp := Path("run-0123abcd"), 6, needs, Settings(), tmp)
    assert f"--warning-seconds {warning_seconds}" in script and f"--signal=B:USR1@{warning_seconds}" in script


def test_a_time_limit_that_holds_a_step_but_no_checkpoint(sweep: Sweeps) -> None:
    """A checkpoint of 3e9 parameters takes 36 GB and more."""
    large = sweep("train", change=lambda config, seed: config["model"].update(path="somebody/large", parameters=3e9))
    with pytest.raises(UserError, match=r"must hold a step .* or a checkpoint \((3[6-9]|[4-9]\d) s, estimated\)"):
        large.launch(time="00:00:30", warning_seconds=1)
