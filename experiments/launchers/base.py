"""What all launchers share: from a batch of overrides to planned runs, shown and checked before anything starts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.compose import verl_arguments
from experiments.plan import PlannedRun, plan_runs
from experiments.report import print_plan


class PlannedLauncher(Launcher):
    """Composes each job once, plans them all, and leaves the starting to `start`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start what is missing of the jobs; SystemExit with the command's exit code if it is not 0."""
        configs = []
        for overrides in job_overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                del config["hydra"]
            configs.append(config)
        shown = configs[0].show
        runs = plan_runs(configs)
        if shown == "config":
            for run in runs:
                print(OmegaConf.to_yaml(OmegaConf.create(run.config), sort_keys=False))
            code = 0
        elif shown == "verl":
            for run in runs:
                print(verl_command(run))
            code = 0
        else:
            print_plan(runs)
            code = 0 if shown == "plan" else self.start(runs)
        if code:
            raise SystemExit(code)
        return [_returned(list(overrides)) for overrides in job_overrides]

    @abstractmethod
    def start(self, runs: Sequence[PlannedRun]) -> int:
        """Start the runs that have something left to do; return the command's exit code."""


def verl_command(run: PlannedRun) -> str:
    """Return the shell command by which veRL's own entry trains the same run (on its plain path)."""
    variables = "VERL_USE_EXTERNAL_MODULES=experiments.verl_plugin,experiments.verl_plugin.trainer"
    if run.config["trainer"]["device"] == "cpu":
        variables = f"VERL_PLATFORM=cpu OMP_NUM_THREADS=1 {variables}"
    arguments = " \\\n    ".join(_quoted(argument) for argument in verl_arguments(run.verl))
    return f"{variables} \\\n  python -m verl.trainer.main_ppo \\\n    {arguments}"


def _quoted(argument: str) -> str:
    import shlex

    return shlex.quote(argument)


def _returned(overrides: list[str]) -> JobReturn:
    returned = JobReturn()
    returned.overrides, returned.status, returned.return_value = overrides, JobStatus.COMPLETED, None
    return returned
