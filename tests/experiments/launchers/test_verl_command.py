"""On every shipped hardware, show=verl prints what the attempt hands to veRL, and W&B gets what it gets on a CPU.

tests/e2e/test_show_verl.py trains by the printed command.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.attempt.caches import cache_variables
from experiments.attempt.environment import environment, verl_config
from experiments.config.hydra_internals import apply_values
from experiments.config.sweep_compose import Composer
from experiments.config.verl import verl_defaults
from experiments.launchers.base import PLUGIN_MODULES, verl_command
from experiments.planning.plan import PlannedRun
from experiments.processes.ray_cpus import cpus_needed
from experiments.project import CONFIG_DIR
from experiments.store.rundir import RunDir, State
from experiments.values import flatten
from experiments.variables import NOT_FINITE, RAY_QUIET, THREADS
from tests.experiments.conftest import SHIPPED

HARDWARE = sorted(file.stem for file in (CONFIG_DIR / "hardware").glob("*.yaml"))
STEPS = 7
# What an attempt sets beside its config: where it writes, its trainer that stops when it is warned, a Ray of its own.
ATTEMPT = {
    *("trainer.default_local_dir", "trainer.checkpoint_callback_class", "trainer.rollout_data_dir"),
    *("trainer.validation_data_dir", "trainer.v1.trainer_mode"),
    *("ray_kwargs.ray_init.address", "ray_kwargs.ray_init._temp_dir", "ray_kwargs.ray_init.num_cpus"),
}
# hardware.fast=true is another path to the same numbers, which veRL's own command does not take.
FAST = {"reward.num_workers", "actor_rollout_ref.rollout.agent.agent_loop_manager_class"}
# The attempt's variables that are not in the printed command: they change no number.
UNPRINTED = {
    *("VERL_FILE_LOGGER_PATH", "HYDRA_FULL_ERROR", "TMPDIR", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE"),
    *("VLLM_DISABLE_COMPILE_CACHE", NOT_FINITE, THREADS),
    *RAY_QUIET,
    "RAY_DEDUP_LOGS",
}


def plan(composer: Composer, folder: Path, hardware: str) -> PlannedRun:
    """Return a run on this hardware as planning leaves it."""
    run = RunDir(folder / hardware / "temperature-0.6-s1-0123abcd")
    model = "tiny" if hardware.startswith("c") else "qwen2.5-3b"
    overrides = (f"model={model}", f"hardware={hardware}", "tracking=wandb", "rollout.temperature=0.6")
    job = composer.compose([*SHIPPED, *overrides])
    values: dict[str, Any] = {
        "trainer.experiment_name": run.path.name,
        "trainer.default_local_dir": str(run.checkpoints),
        "trainer.total_training_steps": STEPS,
        "tracking.group": "temperature=0.6",
        "tracking.tags": ["temperature=0.6", "seed=1"],
        "data.train_files": str(folder / "a [b] 'c'" / "train.parquet"),
        "data.val_files": [str(folder / "test.parquet")],
    }
    job.fill_in(values)
    return PlannedRun(run.path.name, run, copy.deepcopy(job.resolved()), job.config, STEPS, State.PLANNED, 0)


def printed(run: PlannedRun) -> tuple[dict[str, str], list[str]]:
    """Return the variables and the arguments that a shell makes of the printed command."""
    stub = 'python() { env -0; printf "\\0"; printf "%s\\0" "$@"; }\n'
    command = ["env", "-i", "/bin/bash", "-c", f"PATH=/usr/bin:/bin\n{stub}{verl_command(run)}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    variables, _, words = shown.partition("\0\0")
    own = dict(line.split("=", 1) for line in variables.split("\0"))
    return {k: v for k, v in own.items() if k not in ("PWD", "SHLVL", "_", "PATH", "OLDPWD")}, words.split("\0")[:-1]


def composed_by_verl(arguments: list[str]) -> dict[str, Any]:
    """Return veRL's own config with these arguments, as Hydra sets them last. test_compose.py asks Hydra itself."""
    tree = OmegaConf.create(copy.deepcopy(verl_defaults()))
    OmegaConf.set_struct(tree, True)
    apply_values(OverridesParser.create().parse_overrides(arguments), tree)
    return dict(flatten(OmegaConf.to_container(tree, resolve=True)))


def handed(run: PlannedRun) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the variables and the leaves of veRL's config of the run's first attempt."""
    attempt = run.folder.new_attempt()
    variables = environment(run.config, run.folder, attempt, "/tmp/scratch")
    verl = verl_config(run.config, run.folder, attempt, STEPS, variables)
    return variables, dict(flatten(OmegaConf.to_container(verl, resolve=True)))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own variables, and a SLURM job around the tests, would be in the attempt's."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "R1Z_", "SLURM_", "VLLM_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_the_printed_command_hands_verl_what_the_attempt_hands_it(
    composer: Composer, tmp_path: Path, hardware: str
) -> None:
    run = plan(composer, tmp_path, hardware)
    variables, ours = handed(run)
    environ, words = printed(run)
    assert words[:2] == ["-m", "verl.trainer.main_ppo"]
    theirs = composed_by_verl(words[2:])
    unlike = {key for key in ours.keys() | theirs.keys() if ours.get(key, "none") != theirs.get(key, "none")}
    assert unlike <= ATTEMPT | (FAST if run.config["hardware"]["fast"] else set())
    assert theirs["trainer.v1.trainer_mode"] == "ablation" and ours["trainer.v1.trainer_mode"] == "stoppable"
    on_cpu = hardware.startswith("cpu")
    assert theirs["trainer.device"] == ours["trainer.device"] == ("cpu" if on_cpu else "cuda")
    cpus = theirs["ray_kwargs.ray_init.num_cpus"]
    assert cpus is None if run.config["hardware"]["nodes"] > 1 else cpus >= cpus_needed(run.config), "Ray would wait"
    modules = [f"experiments.verl_plugin{module}" for module in PLUGIN_MODULES]
    assert environ.pop("VERL_USE_EXTERNAL_MODULES").split(",") == modules
    assert environ.items() <= variables.items() and ("VERL_PLATFORM" in environ) == on_cpu
    silent = variables.keys() - environ.keys() - {"VERL_USE_EXTERNAL_MODULES"}
    assert silent - UNPRINTED - cache_variables(tmp_path, {}).keys() == {*silent} & {
        *("WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_SILENT"),
        "WANDB_CACHE_DIR",
    }


def test_w_and_b_gets_on_every_hardware_what_it_gets_on_a_cpu(
    composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """veRL's own tracker begins a run of W&B. What it says, and the variables that W&B reads, are compared."""
    from verl.utils.tracking import Tracking

    told: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **said: told.update(said), finish=print))

    def begun(hardware: str) -> tuple[Any, ...]:
        run = plan(composer, tmp_path, hardware)
        variables, leaves = handed(run)
        monkeypatch.setenv("VERL_FILE_LOGGER_PATH", variables["VERL_FILE_LOGGER_PATH"])
        trainer = {key.removeprefix("trainer."): value for key, value in leaves.items() if key.startswith("trainer.")}
        told.clear()
        Tracking(trainer["project_name"], trainer["experiment_name"], trainer["logger"], {"trainer": trainer})
        config = told.pop("config")
        assert config["trainer"]["device"] == run.config["trainer"]["device"]
        read = {name: value for name, value in variables.items() if name.startswith("WANDB_")}
        folder = str(run.folder.path.parent)
        return dict(told), trainer["logger"], {name: value.replace(folder, "RUNS") for name, value in read.items()}

    on_cpu = begun("cpu")
    assert on_cpu[0]["project"] == "r1-zero-ablations" and on_cpu[0]["name"] == "temperature-0.6-s1-0123abcd"
    assert on_cpu[1] == ["file", "wandb"]
    assert (
        on_cpu[2].items()
        >= {
            "WANDB_MODE": "online",
            "WANDB_DIR": "RUNS/temperature-0.6-s1-0123abcd/attempts/1",
            "WANDB_RUN_ID": "0123abcd",
            "WANDB_RESUME": "allow",
            "WANDB_RUN_GROUP": "temperature=0.6",
            "WANDB_TAGS": "temperature=0.6,seed=1",
        }.items()
    )
    for hardware in (name for name in HARDWARE if name != "cpu"):
        assert begun(hardware) == on_cpu, hardware
