"""Which runs are meant: by any unambiguous prefix of a name or an id, or by KEY=VALUE filters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError
from experiments.store.events import State
from experiments.store.rundir import RunDir, entries, find_runs
from experiments.store.selection import START_ONE, matching, means, nearest, parse_condition
from experiments.values import at, flatten

MISSING = object()  # stands for the value of a key that a config does not have


def find(runs_dir: Path, wanted: str) -> RunDir:
    """Return the run that `wanted` names: a name, an id, an unambiguous prefix of either, or a folder's path.

    UserError naming the candidates if there are several, the nearest if there is none.
    """
    if (Path(wanted) / "config.yaml").is_file():
        return RunDir(Path(wanted).absolute())
    runs = {run.path.name: run for run in find_runs(runs_dir)}
    matches = matching(wanted, runs)
    if len(matches) == 1:
        return RunDir(runs[matches[0]].path.absolute())
    if matches:
        candidates = "\n  ".join(matches)
        raise UserError(f"RUN must name one run, but {wanted!r} begins {len(matches)}; write more of:\n  {candidates}")
    if not runs:
        raise UserError(f"RUN must name a run, but there are none in {runs_dir}; {START_ONE}")
    names = "\n  ".join(nearest(wanted, runs))
    raise UserError(f"RUN must begin a run's name or id, but {wanted!r} begins none in {runs_dir}; nearest:\n  {names}")


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
    """The conditions, all of which a run must meet: on `state` or a dotted key of its config, or words in its name."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.words = [text for text in texts if "=" not in text]
        parsed = [(text, parse_condition(text)) for text in texts if "=" in text]
        malformed = [text for text, condition in parsed if condition is None]
        if malformed:
            do = "write state=failed, rollout.n=5, or a part of a run's name"
            raise UserError(*(f"a filter must be KEY=VALUE or KEY!=VALUE, but is {text!r}; {do}" for text in malformed))
        conditions = [condition for _, condition in parsed if condition is not None]
        self.on_state = [condition for condition in conditions if condition.key == "state"]
        unknown = [c.text for c in self.on_state if not any(means(c.text, state) for state in State)]
        if unknown:
            raise UserError(*(f"state must be one of {', '.join(State)}, but is {state!r}" for state in unknown))
        self.on_config = [condition for condition in conditions if condition.key != "state"]
        self.unmet = {condition.key for condition in self.on_config}  # keys that no config has had so far
        self.seen: set[str] = set()

    def accept(self, run: RunDir, state: str) -> bool:
        """Return whether the run meets the conditions. Reads its config only if one is about the config."""
        if not all(word in run.path.name for word in self.words):
            return False
        if not all(condition.accepts([state]) for condition in self.on_state):
            return False
        if not self.on_config:
            return True
        config = run.load_config()
        found = {condition.key: at(config, condition.key, MISSING) for condition in self.on_config}
        if self.unmet:
            self.unmet -= {key for key, value in found.items() if value is not MISSING}
            if self.unmet:
                self.seen |= {key for key, _ in flatten(config)}
        values = {key: [] if value is MISSING else [value] for key, value in found.items()}
        return all(condition.accepts(values[condition.key]) for condition in self.on_config)

    def check(self) -> None:
        """Raise UserError for keys that none of the configs looked at has, naming the nearest."""
        problems = []
        for key in sorted(self.unmet if self.seen else ()):
            near = nearest(key, self.seen, alike=0.6)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            problems.append(f"a filter's key must be state or a key of a config, but no run has {key!r}{hint}")
        if problems:
            raise UserError(*problems)


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
