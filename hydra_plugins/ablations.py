"""Our launchers under the only name that Hydra takes plugins from (it scans the namespace package hydra_plugins)."""

from collections.abc import Sequence

from experiments.launchers.base import PlannedLauncher
from experiments.plan import PlannedRun


class LocalLauncher(PlannedLauncher):
    """hydra/launcher=local: on this machine, one run after the other."""

    def start(self, runs: Sequence[PlannedRun]) -> int:
        from experiments.launchers.local import run_all

        return run_all(runs)
