"""What all launchers share: turn a batch of overrides into planned runs, checked and shown before anything starts."""

from __future__ import annotations

import contextlib
import gc
import shlex
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiments.config.hydra_internals import BASIC_SWEEPER
from experiments.config.sweep_compose import Composer
from experiments.config.verl import override, verl_arguments
from experiments.errors import UserError
from experiments.launchers.notify import check_notify
from experiments.models import hub as hub_model
from experiments.planning.plan import LeftOut, PlannedRun, distinct, not_fetched, plan_runs
from experiments.planning.show import plan_json, print_plan
from experiments.processes.ray_cpus import cpus_needed
from experiments.processes.standby import Standby
from experiments.store.launch_log import Launch, note_launch
from experiments.store.metrics import final_accuracy
from experiments.store.rundir import RunDir
from experiments.terminal import console
from experiments.values import at

# The jobs of these sweepers are written down by somebody. Any other sweeper optimises: it chooses its next jobs by the
# results of the jobs before.
LISTING_SWEEPERS = ("hydra_plugins.ablations.AblationSweeper", BASIC_SWEEPER)

# What veRL's own entry imports of the plugin, in this order: the trainer needs the platform, and veRL may import both
# before our package is complete, in a process that imports our package first.
PLUGIN_MODULES = ("", ".lifecycle.platform", ".training.trainer")


@dataclass
class Command:
    """What the launches of one command share; a sweeper that optimises launches many times.

    Hydra treats it as the command's task function, because the task function is what Hydra passes on to a launcher.
    """

    task: TaskFunction
    """The function that does one job of a launcher that is not ours."""
    standby: Standby = field(default_factory=Standby)
    launched: bool = False
    """Whether runs have been started or submitted."""

    @property
    def __wrapped__(self) -> TaskFunction:
        """Return `task`: Hydra names the job after the file of this function."""
        return self.task

    def __call__(self, config: DictConfig) -> Any:
        return self.task(config)

    def __reduce__(self) -> tuple[Any, ...]:
        return Command, (self.task,)  # a launcher that is not ours sends it to another process, without the helpers


class PlannedLauncher(Launcher):
    """Composes each job, plans them all, and calls `start` to start them."""

    waits = True
    """Whether the runs have ended when `start` returns."""
    notify: str | None = None
    """What the command's notify= says."""
    starts = True
    """Whether the launcher starts runs; if so, it fetches the base models that are missing."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.composer = config, Composer(hydra_context.config_loader, config)
        self.command = task_function if isinstance(task_function, Command) else Command(task_function)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start the runs that are not done; SystemExit with the command's exit code if that is not 0.

        A job's return value is the final validation accuracy of its run: a sweeper that optimises maximises it.
        """
        if not job_overrides:
            raise UserError(
                "a sweep must have an arm, but one of the lists or ranges of this one is empty; give each a value"
            )
        listed = self.config.hydra.sweeper._target_ in LISTING_SWEEPERS
        with _uncollected():
            jobs = [self.composer.compose(overrides) for overrides in job_overrides]
            shown = jobs[0].config.show
            self.notify = jobs[0].config.notify
            check_notify(self.notify)
            if shown is None:
                self.expect(jobs[0].config)
            if not listed and (shown or not self.waits):
                raise UserError(
                    "a sweeper that optimises must see each trial's accuracy before the next trial, but this command "
                    "waits for no run; use hydra/launcher=local, or slurm with hydra.launcher.wait=true, and no show="
                )
            skipped: list[LeftOut] | None = [] if listed and jobs[0].config.skip_invalid else None
            asked = plan_runs(jobs, listed, skipped)
            left = {one.place for one in skipped or ()}
            kept = [overrides for place, overrides in enumerate(job_overrides) if place not in left]
            outlook = self.outlook(distinct(asked), shown is None) if self.starts and shown in (None, "plan") else []
        if self.starts and shown is None and (names := not_fetched(asked)):
            for name in names:
                hub_model.fetch(name)
            return self.launch(job_overrides, initial_job_idx)
        runs = distinct(asked)
        code = 0
        if shown == "config":
            for run in runs:
                print(OmegaConf.to_yaml(OmegaConf.create(run.config), sort_keys=False))
        elif shown == "verl":
            for run in runs:
                print(verl_command(run))
        elif shown == "json":
            print(plan_json(runs, len(asked), skipped or ()))
        else:
            print_plan(runs, len(asked), skipped or ())
            for line in outlook:
                console.print(line)
            if self.starts and shown is None and listed:
                self.note(runs)
            code = 0 if shown == "plan" else self.start(runs)
            self.command.launched = True
        if code:
            raise SystemExit(code)
        returned = [_returned(list(overrides), run.folder) for overrides, run in zip(kept, asked, strict=True)]
        if not listed and any(job.return_value is None for job in returned):
            raise UserError("each trial must record a validation accuracy, but one did not; set trainer.test_freq=1")
        return returned

    def expect(self, config: DictConfig) -> None:
        """Prepare for runs like the one with this config while the plan is made. The plan may still refuse the runs."""

    def note(self, runs: Sequence[PlannedRun]) -> None:
        """Note on the disk that these runs were asked for together: the analysis draws them so."""
        typed = tuple(argument for argument in sys.argv[1:] if argument != "--multirun")
        for folder in dict.fromkeys(run.folder.path.parent for run in runs):
            ids = tuple(run.folder.id for run in runs if run.folder.path.parent == folder)
            note_launch(folder, Launch(ids, typed))

    def outlook(self, runs: Sequence[PlannedRun], starting: bool) -> list[str]:
        """Return what the plan says about how this launcher would execute the runs, as lines; UserError if it can't.

        `starting`: the runs are started now. A plan may be for another machine.
        """
        return []

    @abstractmethod
    def start(self, runs: Sequence[PlannedRun]) -> int:
        """Start the runs that have something left to do; return the command's exit code."""


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the garbage collector: it would walk hundreds of configs, all in use, again and again.

    That was a third of the planning time. The command itself disables the collector from its start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def verl_command(run: PlannedRun) -> str:
    """Return the shell command with which veRL's own entry trains the same run, on veRL's plain path.

    It is for this project's folder. Its checkpoints go to veRL's own default folder, so our run stays as it is. On one
    node it starts a Ray of its own, which is told of the CPUs that veRL needs, as in an attempt.
    """
    config = run.config
    variables = {"VERL_USE_EXTERNAL_MODULES": ",".join(f"experiments.verl_plugin{module}" for module in PLUGIN_MODULES)}
    if config["trainer"]["device"] == "cpu":
        variables = {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", **variables}
    if "wandb" in config["trainer"]["logger"]:
        variables["WANDB_MODE"] = config["tracking"]["wandb"]
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    asked, cpus = verl_arguments(run.verl), "ray_kwargs.ray_init.num_cpus"
    if config["hardware"]["nodes"] == 1 and at(config, cpus) is None:
        asked.append(override(cpus, cpus_needed(config)))
    arguments = " \\\n    ".join(map(shlex.quote, asked))
    return f"{words} \\\n  python -m verl.trainer.main_ppo \\\n    {arguments}"


def _returned(overrides: list[str], run: RunDir) -> JobReturn:
    returned = JobReturn()
    returned.overrides, returned.status, returned.return_value = overrides, JobStatus.COMPLETED, final_accuracy(run)
    return returned
