"""What a launch would do: the requested configs as runs, held against what is already in the runs folder."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments import identity, preflight
from experiments.compose import PROJECT_DIR, plain
from experiments.errors import UserError
from experiments.rundir import RunDir

CHECKPOINT_BYTES_PER_PARAMETER = 12  # fp32 weights and two Adam moments
KEPT_CHECKPOINTS = 3  # two kept and one being written


@dataclass(frozen=True)
class PlannedRun:
    """One run that was asked for."""

    name: str
    run: RunDir
    config: dict[str, Any]
    verl: DictConfig
    steps: int
    state: str
    reached: int

    @property
    def action(self) -> str:
        """Return start, resume, extend, skip (done) or wait (running)."""
        if self.state == "running":
            return "wait"
        if self.state == "planned" and not self.run.events_file.exists():
            return "start"
        if self.reached >= self.steps and self.state == "finished":
            return "skip"
        if self.state == "finished":
            return "extend"
        return "resume" if self.run.checkpoint_step() else "start"


def plan_runs(configs: Sequence[DictConfig]) -> list[PlannedRun]:
    """Return the runs that the configs ask for, each once, in order; UserError naming every problem of all configs.

    Data sets are generated here (and found again by their content); no run's folder is made.
    """
    problems: list[str] = []
    planned: dict[str, PlannedRun] = {}
    for config in configs:
        raw = plain(config, resolve=True)
        found = preflight.knob_problems(raw) or preflight.model_problems(raw)
        if not found:
            _fill_in_content(config)
            raw = plain(config, resolve=True)
            found = preflight.problems_of(raw)
        if found:
            problems += [problem for problem in found if problem not in problems]
            continue
        run = _name(config, raw)
        planned.setdefault(run.name, run)
    if problems:
        raise UserError(*problems)
    return list(planned.values())


def _fill_in_content(config: DictConfig) -> None:
    """Make the data set, and name by content what the config points at."""
    with open_dict(config):
        folder = Path(config.model.path).expanduser()
        config.model.digest = identity.folder_digest(folder) if folder.is_dir() else None
        config.task.code = identity.folder_digest(Path(config.reward.custom_reward_function.path).parent, "*.py")
        if config.data.train_files is None:
            config.data.train_files, test, config.task.digest = _generate(config)
            if config.data.val_files is None:
                config.data.val_files = test


def _generate(config: DictConfig) -> tuple[str, str, str]:
    """Return (training file, validation file, digest) of the generated data set."""
    from experiments.tasks.countdown import dataset, problems

    spaces = {"article": problems.ARTICLE, "miniature": problems.MINIATURE}
    if config.task.space not in spaces:
        raise UserError(f"task.space must be article or miniature, but is {config.task.space!r}; leave it out")
    data = dataset.prepare(
        space=spaces[config.task.space],
        template=config.model.template,
        train_size=int(config.task.train_size),
        test_size=int(config.task.test_size),
        seed=int(config.task.data_seed),
        cache_dir=Path(config.data_dir).absolute(),
    )
    return str(data.train), str(data.test), data.digest


def _name(config: DictConfig, raw: dict[str, Any]) -> PlannedRun:
    """Return the run for a checked config, its name and paths filled in."""
    name = f"{identity.run_name(raw)}-{identity.run_id(raw)}"
    run = RunDir(Path(config.runs_dir).absolute() / name)
    with open_dict(config):
        config.trainer.experiment_name = name
        config.trainer.default_local_dir = str(run.checkpoints)
        config.show = None
    steps = int(config.trainer.total_training_steps)
    return PlannedRun(name, run, plain(config, resolve=True), config, steps, run.state(), run.checkpoint_step())


def code_version() -> dict[str, Any]:
    """Return the commit, whether the working tree differs from it, and the versions that matter."""
    from importlib.metadata import PackageNotFoundError, version

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(PROJECT_DIR), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

    versions = {}
    for package in ("verl", "torch", "ray", "transformers", "hydra-core", "wandb", "vllm"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = git("rev-parse", "HEAD")
    return {"commit": commit.strip() if commit else None, "diff": git("diff", "HEAD"), "versions": versions}


def disk_needed(run: PlannedRun) -> int:
    """Return the bytes that a run's checkpoints can take at most (0 for a model on the hub: its size is not known)."""
    parameters = preflight.model_parameters(Path(run.config["model"]["path"]).expanduser())
    roles = 2 if run.config["algorithm"]["adv_estimator"] == "gae" else 1
    return parameters * roles * CHECKPOINT_BYTES_PER_PARAMETER * KEPT_CHECKPOINTS


def freeze(run: PlannedRun) -> None:
    """Make the run's folder with its config and the code's version, if it is not there yet."""
    run.run.create(OmegaConf.to_yaml(OmegaConf.create(run.config), sort_keys=False), code_version())
