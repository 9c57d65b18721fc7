"""`list`: every run at a glance, as a table (once, or again and again) or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError
from experiments.runs.find import Filters
from experiments.runs.status import Status, ago, settle, status_of
from experiments.store.events import State
from experiments.store.rundir import RunDir, find_runs
from experiments.store.selection import START_ONE
from experiments.terminal import printable

if TYPE_CHECKING:
    from rich.text import Text

WATCH_SECONDS = 2.0
COLUMNS = ("run", "state", "step", "accuracy", "length", "steps/h", "ETA", "attempt", "where")
LEFT_ALIGNED = ("run", "state", "where")
STYLES = {
    State.RUNNING: "cyan",
    State.FINISHED: "green",
    State.FAILED: "red",
    State.KILLED: "red",
    State.INTERRUPTED: "yellow",
}
NARROWEST_NAME = 24
DISPENSABLE = ("where", "attempt", "length", "steps/h")  # the first is the first to go where the window is narrow


def list_runs(runs_dir: Path, conditions: Sequence[str], as_json: bool, watch: bool) -> int:
    """Print the runs that meet the conditions (KEY=VALUE); return the exit code. `watch`: repeat until Ctrl-C."""
    if as_json and watch:
        raise UserError("--json and --watch exclude each other; leave one out")
    if as_json:
        statuses, notes = read_all(runs_dir, Filters(conditions))
        print(json.dumps({"runs": [status.as_json() for status in statuses], "notes": notes}, indent=1))
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    if not watch:
        console.print(table(runs_dir, conditions, console.width if console.is_terminal else None), soft_wrap=True)
        return 0
    if not console.is_terminal:
        raise UserError("--watch must have a terminal, but the output is not one; use list, or list --json")
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        try:
            while True:
                live.update(table(runs_dir, conditions, console.width), refresh=True)
                time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return 0


def read_all(runs_dir: Path, filters: Filters) -> tuple[list[Status], list[str]]:
    """Return (the status of each run that the filters accept, sorted by name; notes on what could not be read).

    A folder that is not a run, that can't be read or that a newer version made gives a note, not an error.
    """
    try:
        entries = sorted(entry for entry in runs_dir.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise UserError(f"--runs-dir must be a folder that can be read, but {runs_dir}: {error.strerror}") from None
    statuses, notes = [], settle(find_runs(runs_dir))
    for entry in entries:
        try:
            if not (entry / "config.yaml").is_file():
                if entry.is_dir():
                    notes.append(f"{entry.name}: not a run's folder (no config.yaml)")
                continue
            status, damage = status_of(RunDir(entry))
            accepted = filters.accept(status.run, status.state)
        except (UserError, OSError, ValueError) as error:
            notes.append(f"{entry.name}: can't be read: {' '.join(str(error).split())}")
            continue
        notes += damage
        if accepted:
            statuses.append(status)
    filters.check()
    return statuses, notes


def table(runs_dir: Path, conditions: Sequence[str], width: int | None) -> Text:
    """Return the table of the runs with the notes below it; None: as wide as it is.

    To fit into `width` columns, names are cut, and columns are left out where that is not enough: a line never breaks.

    The cells are aligned here, because rich's own Table takes a second for a thousand rows.
    """
    from rich.text import Text

    statuses, notes = read_all(runs_dir, Filters(conditions))
    rows = [cells(status) for status in statuses]
    widths = [max(len(row[k]) for row in [COLUMNS, *rows]) for k in range(len(COLUMNS))]
    shown = list(range(len(COLUMNS)))
    if width is not None:
        for name in DISPENSABLE:
            if NARROWEST_NAME + sum(widths[k] + 2 for k in shown[1:]) > width:
                shown.remove(COLUMNS.index(name))
        widths[0] = min(widths[0], max(NARROWEST_NAME, width - sum(widths[k] + 2 for k in shown[1:])))
    text = Text()
    if not statuses:
        text.append(f"no runs in {runs_dir}{' that meet ' + ' '.join(conditions) if conditions else ''}; {START_ONE}\n")
    else:
        text.append(_line(COLUMNS, widths, shown), style="bold")
        for row in rows:
            line = _line(row, widths, shown)
            start = widths[0] + 2
            text.append(line[:start])
            text.append(line[start : start + len(row[1])], style=STYLES.get(State(row[1]), ""))
            text.append(line[start + len(row[1]) :])
    if len(shown) < len(COLUMNS) and statuses:
        hidden = ", ".join(name for k, name in enumerate(COLUMNS) if k not in shown)
        text.append(f"no room for {hidden}: a wider window or --json shows all\n", style="dim")
    for note in notes:
        text.append(f"{printable(note)}\n", style="yellow")
    text.rstrip()
    return text


def cells(status: Status) -> tuple[str, ...]:
    """Return the row of a run, a text for each of COLUMNS."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else f"{value:{form}}"

    return (
        printable(status.run.path.name),
        status.state,
        f"{status.step}/{'?' if status.of is None else status.of}",
        number(status.accuracy, ".3f"),
        number(status.response_length, ".0f"),
        number(status.steps_per_hour, ".0f"),
        "-" if status.eta_seconds is None else ago(status.eta_seconds),
        str(status.attempt) if status.attempt else "-",
        printable(status.where),
    )


def _line(row: Sequence[str], widths: Sequence[int], shown: Sequence[int]) -> str:
    """Return a row of the table: its columns with the numbers `shown`."""
    aligned = [
        f"{_shortened(row[k], widths[k]):<{widths[k]}}" if COLUMNS[k] in LEFT_ALIGNED else f"{row[k]:>{widths[k]}}"
        for k in shown
    ]
    return "  ".join(aligned).rstrip() + "\n"


def _shortened(name: str, width: int) -> str:
    """Return a run's name cut in the middle to `width` characters: the id at its end is enough to name the run."""
    if len(name) <= width:
        return name
    settings, _, identity = name.rpartition("-")
    return f"{settings[: max(0, width - len(identity) - 2)]}…-{identity}"[:width]
