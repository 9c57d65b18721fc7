"""Our launchers, sweeper and config source, in the one place where Hydra looks for plugins: it scans hydra_plugins."""

import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.config.hydra_internals import FileConfigSource
from experiments.launchers.base import PlannedLauncher
from experiments.planning.plan import PlannedRun


class LocalLauncher(PlannedLauncher):
    """hydra/launcher=local: on this machine, as many runs at once as it has room for."""

    def __init__(
        self,
        jobs: Any = None,
        retries: Any = 0,
        **values: Any,  # ignored: SLURM's, from conf/local/default.yaml
    ) -> None:
        super().__init__()
        self.jobs, self.retries = jobs, retries
        self.at_once = 1

    def expect(self, config: DictConfig) -> None:
        self.command.standby.foresee(config)

    def outlook(self, runs: Sequence[PlannedRun], starting: bool) -> list[str]:
        from experiments.launchers.places import Machine, outlook
        from experiments.launchers.retries import check_retries

        check_retries(self.retries)
        self.here = Machine()
        self.at_once, lines = outlook(runs, self.jobs, self.here, starting)
        return lines

    def start(self, runs: Sequence[PlannedRun]) -> int:
        from experiments.launchers.local import run_all

        return run_all(
            runs,
            self.command.standby,
            at_once=self.at_once,
            here=self.here,
            retries=self.retries,
            notify=self.notify,
        )


class SlurmLauncher(PlannedLauncher):
    """hydra/launcher=slurm: job arrays; conf/hydra/launcher/slurm.yaml lists the values."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.values = values
        self.waits = bool(values.get("wait"))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from experiments.launchers.slurm.launch import catch_up

        catch_up(Path(self.config.runs_dir).absolute())
        return super().launch(job_overrides, initial_job_idx)

    def outlook(self, runs: Sequence[PlannedRun], starting: bool) -> list[str]:
        from experiments.launchers.slurm.arms_per_job import outlook

        return outlook(runs, self.values, starting)

    def start(self, runs: Sequence[PlannedRun]) -> int:
        from experiments.launchers.slurm.launch import launch

        return launch(runs, self.values, self.notify)


class PlanLauncher(PlannedLauncher):
    """hydra/launcher=plan: prints the plan, as `launch` does before any start, and starts nothing."""

    waits = starts = False

    def __init__(self, **values: Any) -> None:  # ignored, as by LocalLauncher
        super().__init__()

    def start(self, runs: Sequence[PlannedRun]) -> int:
        return 0


class AblationSweeper(Sweeper):
    """hydra/sweeper=ablation: commas, ranges and the files of sweeps/, all jobs in one launch."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        from experiments.config.sweep_jobs import failed, jobs

        returned = self.launcher.launch(jobs(arguments), initial_job_idx=0)
        if failed(returned):
            raise SystemExit(1)
        return returned


@cache  # each file once in a process
def _pickled_config(folder: str, config_path: str) -> bytes:
    """Return a file of veRL's config folder, read and pickled."""
    return pickle.dumps(FileConfigSource("verl", f"file://{folder}").load_config(config_path))


class VerlConfigSource(FileConfigSource):
    """verl://FOLDER: veRL's config files.

    A command composes its tree five times, and most of that time is spent on parsing these files.
    """

    @staticmethod
    def scheme() -> str:
        return "verl"

    def load_config(self, config_path: str) -> ConfigResult:
        result: ConfigResult = pickle.loads(_pickled_config(self.path, config_path))  # Hydra changes what it gets
        result.provider = self.provider
        return result
