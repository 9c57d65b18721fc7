"""What the sweep files say of an ablation: the order and the labels of its arms, and the claims that it tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from analysis.design.factors import Factor
from analysis.design.levels import frozen
from analysis.records.record import RunRecord
from experiments.config.sweep_files import Level, Sweep, load_sweeps
from experiments.project import SWEEPS_DIR

# A sweep's factor may be a group of conf/, as `algorithm`. These endings lead to the key that the choice sets.
CHOICE_KEYS = ("", ".name", ".schedule")


def read_sweeps() -> list[Sweep]:
    """Return all sweeps of sweeps/; UserError naming every mistake in them."""
    return load_sweeps(sorted(file.stem for file in SWEEPS_DIR.glob("*.yaml")))


def sweep_of(factors: Sequence[Factor], arms: Collection[Sequence[RunRecord]], sweeps: Sequence[Sweep]) -> Sweep | None:
    """Return the sweep that varies the one factor, or whose arms, each a list of settings, are these; None if none is.

    Of several sweeps that vary the factor, the one that has the most of the arms. `arms`: the runs of each arm.
    """
    if len(factors) == 1:
        key = factors[0].key
        varied = [sweep for sweep in sweeps if key in [sweep.factor + ending for ending in CHOICE_KEYS]]
        if varied:
            return max(varied, key=lambda sweep: sum(level_place(sweep, runs) is not None for runs in arms))
    listed = (sweep for sweep in sweeps if any(level.others for level in sweep.levels))
    return next((sweep for sweep in listed if len({level_place(sweep, runs) for runs in arms} - {None}) > 1), None)


def level_place(sweep: Sweep, runs: Sequence[RunRecord]) -> int | None:
    """Return the place among the sweep's levels of the one that an arm's runs have, None if they have none of them."""
    places = [place for place, level in enumerate(sweep.levels) if all(has_level(run, sweep, level) for run in runs)]
    # An arm that lists few settings is also had by an arm that lists more of them.
    return max(places, key=lambda place: len(sweep.settings(sweep.levels[place])), default=None)


def has_level(run: RunRecord, sweep: Sweep, level: Level) -> bool:
    """Return whether a run has all settings of a level."""
    return all(has_setting(run, key.lstrip("+"), value) for key, value in sweep.settings(level).items())


def has_setting(run: RunRecord, key: str, value: Any) -> bool:
    """Return whether a run has a value at a key, or by a choice of the group of that name."""
    keys = [key + ending for ending in CHOICE_KEYS if key + ending in run.config]
    return any(frozen(value) == frozen(run.config[one]) for one in keys)


def level_title(sweep: Sweep, runs: Sequence[RunRecord], text: str) -> str:
    """Return a level's label in the sweep file; for a level that is not in it, `text` in the style of those that are.

    E.g. "T = 0.8" beside "T = 0.6"; "" if the file's labels have no common style.
    """
    place = level_place(sweep, runs)
    if place is not None:
        return sweep.levels[place].label
    styles = Counter(
        known.label.removesuffix(str(known.value)) for known in sweep.levels if known.label.endswith(str(known.value))
    )
    return f"{styles.most_common(1)[0][0]}{text}" if styles else ""
