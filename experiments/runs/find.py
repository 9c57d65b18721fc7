"""Which runs are meant: by any unambiguous prefix of a name or an id, or by KEY=VALUE filters."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.store.events import State
from experiments.store.rundir import RunDir, entries, find_runs
from experiments.values import flatten

START_ONE = "start one with: python -m experiments.run"
MISSING = object()


def find(runs_dir: Path, wanted: str) -> RunDir:
    """Return the run that `wanted` names: a name, an id, an unambiguous prefix of either, or a folder's path.

    UserError naming the candidates if there are several, the nearest if there is none.
    """
    if (Path(wanted) / "config.yaml").is_file():
        return RunDir(Path(wanted).absolute())
    runs = {run.path.name: run for run in find_runs(runs_dir)}
    exact = [name for name in runs if wanted in (name, runs[name].id)]
    matches = exact or [name for name in runs if name.startswith(wanted) or runs[name].id.startswith(wanted)]
    if len(matches) == 1:
        return RunDir(runs[matches[0]].path.absolute())
    if matches:
        candidates = "\n  ".join(matches)
        raise UserError(f"RUN must name one run, but {wanted!r} begins {len(matches)}; write more of:\n  {candidates}")
    if not runs:
        raise UserError(f"RUN must name a run, but there are none in {runs_dir}; {START_ONE}")
    nearest = "\n  ".join(difflib.get_close_matches(wanted, runs, n=3, cutoff=0.0))
    raise UserError(
        f"RUN must begin a run's name or id, but {wanted!r} begins none in {runs_dir}; nearest:\n  {nearest}"
    )


def find_all(runs_dir: Path, wanted: Sequence[str]) -> list[RunDir]:
    """Return the runs that `wanted` names, each once, in that order; UserError with every problem."""
    found: dict[Path, RunDir] = {}
    problems: list[str] = []
    for name in wanted:
        try:
            run = find(runs_dir, name)
            found[run.path] = run
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return list(found.values())


class Filters:
    """KEY=VALUE conditions, all of which a run must meet: `state`, or any dotted key of its config."""

    def __init__(self, conditions: Sequence[str]) -> None:
        malformed = [text for text in conditions if "=" not in text.strip("=")]
        if malformed:
            raise UserError(*(f"a filter must be KEY=VALUE, but is {text!r}" for text in malformed))
        pairs = [text.split("=", 1) for text in conditions]
        self.states = [value for key, value in pairs if key == "state"]
        unknown = [state for state in self.states if state not in list(State)]
        if unknown:
            raise UserError(*(f"state must be one of {', '.join(State)}, but is {state!r}" for state in unknown))
        self.settings = [(key, value) for key, value in pairs if key != "state"]
        self.unmet = {key for key, _ in self.settings}  # keys that no config has had so far
        self.seen: set[str] = set()

    def accept(self, run: RunDir, state: str) -> bool:
        """Return whether the run meets the conditions. Reads its config only if one is about the config."""
        if any(state != wanted for wanted in self.states):
            return False
        if not self.settings:
            return True
        config = run.load_config()
        values = [(lookup(config, key), wanted) for key, wanted in self.settings]
        if self.unmet:
            self.unmet -= {key for key, _ in self.settings if lookup(config, key) is not MISSING}
            if self.unmet:
                self.seen |= {key for key, _ in flatten(config)}
        return all(value is not MISSING and means(wanted, value) for value, wanted in values)

    def check(self) -> None:
        """Raise UserError for keys that none of the configs looked at has, naming the nearest."""
        problems = []
        for key in sorted(self.unmet if self.seen else ()):
            nearest = difflib.get_close_matches(key, self.seen, n=3)
            hint = f"; did you mean {', '.join(nearest)}?" if nearest else ""
            problems.append(f"a filter's key must be state or a key of a config, but no run has {key!r}{hint}")
        if problems:
            raise UserError(*problems)


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key, MISSING if there is none."""
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return MISSING
        config = config[part]
    return config


def means(text: str, value: Any) -> bool:
    """Return whether a text typed by a user means a config's value: 1 is 1.0, null is none, true is true."""
    if value is None or isinstance(value, bool):
        return text.lower() in {None: ("null", "none"), True: ("true",), False: ("false",)}[value]
    if text == str(value):
        return True
    try:
        return isinstance(value, int | float) and float(text) == value
    except ValueError:
        return False


def readable_runs(runs_dir: Path) -> list[RunDir]:
    """Return all runs, by name, without those whose folder can't be read or that a newer version made."""
    runs = []
    for run in map(RunDir, entries(runs_dir)):
        try:
            if not run.config_file.is_file():
                continue
            run.state()
        except (UserError, OSError) as error:
            print(f"{run.path.name}: passed over: {error}")
        else:
            runs.append(RunDir(run.path.absolute()))
    return runs
