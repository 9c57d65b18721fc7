"""Runs from their folders: runs/<name>-<id>/ as `experiments.store.rundir` lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.records.ending import settled
from analysis.records.history import Row, is_trained, join
from analysis.records.knobs import with_algorithm
from analysis.records.record import RunRecord, printable
from analysis.sources.filters import find_name
from experiments.errors import UserError
from experiments.store.files import read_jsonl
from experiments.store.launch_log import read_launches
from experiments.store.rundir import NOTED_ROW, Attempt, RunDir, find_runs, id_of
from experiments.store.selection import START_ONE
from experiments.values import as_float, flatten

# Every config with which veRL trains has these keys.
EXPECTED_KEYS = ("algorithm.adv_estimator", "trainer.total_training_steps")


@dataclass(frozen=True)
class RunFolders:
    """The runs under `folder`; with `wanted`, only those (each a path, or the beginning of a name or an id)."""

    folder: Path
    wanted: Sequence[str] = ()

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs by name, one warning for each thing that could not be read as it should).

        Raises UserError if there is no run at all, or none that an element of `wanted` names.
        """
        warnings: list[str] = []
        if self.wanted:
            chosen = {run.path.resolve(): run for run in map(self._find, self.wanted)}
            runs = list(chosen.values())
            twice = [name for name, count in Counter(path.name for path in chosen).items() if count > 1]
            if twice:
                raise UserError(f"every RUN must have a name of its own, but there are several {twice[0]}; name one")
        else:
            runs = find_runs(self.folder)
            warnings += [f"{path}: left out, it is not a run's folder (no config.yaml)" for path in self._foreign()]
            if not runs:
                raise UserError(self._nothing_found(len(warnings)))
        records = []
        for run in runs:
            try:
                record, damage = read_run(run)
            except (UserError, OSError, UnicodeDecodeError) as error:
                warnings.append(f"{run.path}: left out, {' '.join(str(error).split())}")
                continue
            records.append(record)
            warnings += damage
        records = with_launches(records)
        if not records:
            raise UserError(f"the runs under {self.folder} must be readable, but none is; {START_ONE}", *warnings)
        return records, warnings

    def _foreign(self) -> list[Path]:
        """Return the visible folders under `folder` that are not runs."""
        if not self.folder.is_dir():
            return []
        entries = sorted(entry for entry in self.folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
        return [entry for entry in entries if not (entry / "config.yaml").is_file()]

    def _nothing_found(self, foreign: int) -> str:
        looked = f"no runs found: looked in {self.folder.resolve()}"
        if not self.folder.exists():
            return f"{looked}, which does not exist; {START_ONE} (or point --runs at the folder that holds your runs)"
        if not self.folder.is_dir():
            return f"{looked}, which is not a folder; point --runs at the folder that holds your runs"
        files = [entry.name for entry in sorted(self.folder.iterdir()) if entry.is_file()]
        if not foreign and not files:
            return f"{looked}, which is empty; {START_ONE}"
        shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
        held = [f"{foreign} folder(s), none with a config.yaml"] if foreign else []
        held += [f"{len(files)} file(s) ({shown}), none a .wandb file"] if files else []
        return f"{looked}, which holds {' and '.join(held)}; {START_ONE}"

    def _find(self, wanted: str) -> RunDir:
        if (Path(wanted) / "config.yaml").is_file():
            return RunDir(Path(wanted))
        runs = {run.path.name: run for run in find_runs(self.folder)}
        where = self.folder.resolve()
        if not runs:
            raise UserError(f"no run {wanted!r}: there are no runs in {where}; {START_ONE}")
        return runs[find_name(runs, wanted, f" in {where}")]


def read_run(run: RunDir) -> tuple[RunRecord, list[str]]:
    """Return (the record of a run's folder, one warning for each damaged metrics file).

    Raises UserError, OSError or UnicodeDecodeError if the folder is not a run of ours or can't be read.
    """
    loaded = run.load_config()
    config = with_algorithm(dict(flatten(loaded)))
    missing = [key for key in EXPECTED_KEYS if key not in config]
    if missing:
        raise UserError(f"its config.yaml is not that of a run: it has no {' and no '.join(missing)}")
    attempts, warnings = [], []
    # The state is read before the metrics. If the run finishes in between, it is called running although it has all its
    # steps; in the other order, it could be called finished although steps are missing.
    events = run.events()
    state = run.state(events)
    for attempt in run.attempts():
        lines, damaged = read_jsonl(attempt.metrics)
        lines += noted_line(attempt, lines, run.checkpoint_step())
        rows = [row for row in map(_row, lines) if row is not None]
        attempts.append(rows)
        damaged += len(lines) - len(rows)
        if damaged:
            lost = "1 damaged or torn line was" if damaged == 1 else f"{damaged} damaged or torn lines were"
            warnings.append(f"{attempt.metrics}: {lost} passed over, {len(rows)} are sound")
    name = printable(run.path.resolve().name)
    planned = run.target_step(events, loaded)
    record = RunRecord(
        name,
        config,
        join(attempts),
        state,
        len(attempts),
        planned,
        tags=tuple(map(str, config.get("tracking.tags") or ())),
        group=str(config.get("tracking.group") or ""),
        folder=run.path,
        finished_step=run.finished_step(),
    )
    return settled(record), warnings


def with_launches(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records with the commands that asked for them, which the folders that they are in tell."""
    parents = {record.folder.resolve().parent for record in records if record.folder}
    launches = {parent: read_launches(parent) for parent in parents}
    return [
        replace(record, launches=tuple(one for one in launches[folder.parent] if id_of(folder.name) in one.runs))
        for record in records
        if record.folder and (folder := record.folder.resolve())
    ]


def noted_line(attempt: Attempt, lines: Sequence[dict[str, Any]], checkpoint: int) -> list[dict[str, Any]]:
    """Return the row of metrics that a kill kept an attempt from writing, [] if no row is missing.

    Its step is in the checkpoint. The next attempt would write the row into the metrics, but there may be no next one.
    """
    noted = read_jsonl(attempt.path / NOTED_ROW)[0]
    trained = {line.get("step") for line in lines if isinstance(line.get("data"), dict) and is_trained(line["data"])}
    return [line for line in noted if isinstance(s := line.get("step"), int) and s not in trained and s <= checkpoint]


def _row(line: dict[str, Any]) -> Row | None:
    """Return (step, the metrics that are numbers) of a line {"step": int, "data": {...}}, None for any other line."""
    step, data = line.get("step"), line.get("data")
    if not isinstance(step, int) or not isinstance(data, dict):
        return None
    if {*map(type, data.values())} <= {int, float}:  # the usual row, in a tenth of the time
        with suppress(OverflowError):
            return step, dict(zip(data, map(float, data.values()), strict=True))
    row = {key: as_float(value) for key, value in data.items()}
    return step, {key: value for key, value in row.items() if value is not None}
