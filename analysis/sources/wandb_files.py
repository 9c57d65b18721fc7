"""Runs from the `.wandb` files of offline or online runs, whoever trained them with veRL."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.records.curves import with_task
from analysis.records.ending import settled
from analysis.records.history import join
from analysis.records.record import RunRecord, printable
from analysis.sources.trainers import Trainers, read_trainers
from analysis.sources.verl_config import planned_steps, with_knobs
from analysis.sources.wandb_log import NotALogError, WandbLog, read_log
from experiments.errors import UserError
from experiments.store.events import State
from experiments.values import flatten

W_AND_B = "_wandb"  # the key of a config under which the client notes things about itself


@dataclass(frozen=True)
class WandbFiles:
    """The runs of a `.wandb` file, or of all such files under a folder. A resumed run has a file for each attempt."""

    path: Path
    trainers: Trainers | None = None
    """How trainers name their steps and metrics; None: as `trainers.yaml` says."""

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs by name, one warning for each file that could not be read whole)."""
        warnings: list[str] = []
        files: dict[str, list[Path]] = {}
        for path in find_logs(self.path):
            try:
                run_id = read_log(path, to_run=True).run_id
            except (NotALogError, OSError):
                run_id = ""  # told below
            files.setdefault(run_id or path.stem.removeprefix("run-"), []).append(path)
        records = []
        for run_id, paths in files.items():  # one run after the other: the logs of all would take gigabytes
            logs = [log for path in paths if (log := _read_whole(path, warnings)) is not None]
            records += [make_record(run_id, logs, self.trainers)] if logs else []
        if not records:
            raise UserError(
                f"no runs found: there is no readable .wandb file in {self.path.resolve()}; point --source at a folder "
                "that holds W&B's run-<id>.wandb files",
                *warnings,
            )
        return sorted(records, key=lambda record: record.name), warnings


def _read_whole(path: Path, warnings: list[str]) -> WandbLog | None:
    """Return a log, None if nothing in it can be read; say in `warnings` what can't be read."""
    try:
        log = read_log(path)
    except (NotALogError, OSError) as error:
        warnings.append(f"{path}: left out, {error}")
        return None
    if not log.records:
        warnings.append(f"{path}: left out, no record in it is whole")
        return None
    if log.damage():
        warnings.append(f"{path}: {log.damage()}")
    return log


def find_logs(path: Path) -> list[Path]:
    """Return `path` if it is a file, else the `.wandb` files under it; links such as latest-run are not followed."""
    if path.is_file():
        return [path]
    found = []
    for folder, _, files in os.walk(path):
        found += [Path(folder) / file for file in files if file.endswith(".wandb")]
    return sorted(found)


def make_record(run_id: str, logs: Sequence[WandbLog], trainers: Trainers | None = None) -> RunRecord:
    """Return the record of the run that all `logs` are of, joined in the order in which the attempts started."""
    logs = sorted(logs, key=lambda log: log.start)
    last = logs[-1]
    trainers = trainers or read_trainers()
    legs = [leg for log in logs for leg in trainers.rows(own_metrics(log))]
    history = join(legs)
    config = with_knobs(dict(flatten({key: value for key, value in last.config.items() if key != W_AND_B})), trainers)
    planned = planned_steps(config, trainers)
    reported = {None: State.KILLED, 0: State.FINISHED}.get(last.exit_code, State.FAILED)
    record = RunRecord(
        name=run_name(last.name, run_id),
        config=config,
        history=history,
        state=reached_state(reported, history.reached(), planned),
        attempts=len(legs),
        planned_steps=planned,
        tags=tuple(last.tags),
        group=last.group,
    )
    return with_task(settled(record))


def own_metrics(log: WandbLog) -> list[tuple[int, dict[str, float]]]:
    """Return the rows without the metrics that W&B adds: _step, _runtime, _timestamp."""
    return [(step, {key: value for key, value in row.items() if key[0] != "_"}) for step, row in log.rows]


def run_name(name: str, run_id: str) -> str:
    """Return the display name, with the id at its end unless it contains the id already, so that it is unique."""
    return printable(name if run_id in name else f"{name}-{run_id}".lstrip("-"))


def reached_state(reported: str, last_step: int, planned: int | None) -> str:
    """Return our word for how a run ended. The step that it reached counts more than the state that W&B reports.

    veRL finishes a W&B run in a destructor only. So W&B may report a run that did all its steps as crashed, and a run
    that stopped early as finished.
    """
    if planned and last_step >= planned and reported != State.RUNNING:
        return State.FINISHED
    if planned and reported == State.FINISHED:
        return State.INTERRUPTED
    return {"crashed": State.KILLED, "preempted": State.KILLED, "preempting": State.RUNNING}.get(reported, reported)
