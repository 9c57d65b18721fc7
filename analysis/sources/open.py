"""Which source of runs a `--source` means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.records.record import RunRecord
from analysis.sources.filters import WANDB, Source, select
from analysis.sources.trainers import Trainers
from experiments.store.selection import Condition


def open_source(
    spec: str, wanted: Sequence[str] = (), filters: Sequence[Condition] = (), trainers: Trainers | None = None
) -> Source:
    """Return the source that `spec` names: wandb://entity/project, a `.wandb` file, or a folder of runs or such files.

    The source reads only the runs that were asked for. `wanted` are the RUN arguments of a command line: folders,
    names, ids, or beginnings of names or ids.
    """
    from analysis.sources.run_folders import RunFolders
    from analysis.sources.wandb_files import WandbFiles, find_logs

    if is_project(spec):
        from analysis.sources.wandb_api import WandbProject

        return replace(WandbProject.parse(spec, filters, wanted), trainers=trainers)
    path = Path(spec)
    # An online run's folder has files/config.yaml: it is W&B's own, not a folder of ours.
    own = path.is_dir() and any(path.glob("*.wandb"))
    no_folders = path.suffix == ".wandb" or own or (path.is_dir() and not any(path.glob("*/config.yaml")))
    if no_folders and find_logs(path):
        return Selected(WandbFiles(path, trainers), wanted, filters)
    return Selected(RunFolders(path, wanted), (), filters)


def is_project(spec: str) -> bool:
    """Return whether a `--source` names a project on a W&B server."""
    address = spec.startswith(("http://", "https://", "wandb.ai/", "www.wandb.ai/"))
    return spec.startswith(WANDB) or (address and not Path(spec).exists())


@dataclass(frozen=True)
class Selected:
    """A source less the runs that were not asked for."""

    source: Source
    wanted: Sequence[str]
    filters: Sequence[Condition]

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs that were asked for, all warnings of the source); UserError if no run is left."""
        records, warnings = self.source.read()
        return select(records, self.wanted, self.filters), warnings
