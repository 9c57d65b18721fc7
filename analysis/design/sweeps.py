"""What the sweep files say of an ablation: the order and the labels of its arms, and the claims that it tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from analysis.design.factors import Factor
from analysis.design.levels import frozen
from analysis.records.knobs import ALGORITHMS
from experiments.config.sweep_files import Sweep, load_sweeps
from experiments.project import SWEEPS_DIR

# A sweep's factor may be a group of conf/, as `algorithm`. These endings lead to the key that the choice sets.
CHOICE_KEYS = ("", ".name", ".adv_estimator", ".schedule")
ESTIMATORS = {name.lower(): estimator for estimator, name in ALGORITHMS.items()}


def read_sweeps() -> list[Sweep]:
    """Return all sweeps of sweeps/; UserError naming every mistake in them."""
    return load_sweeps(sorted(file.stem for file in SWEEPS_DIR.glob("*.yaml")))


def sweep_of(factors: Sequence[Factor], sweeps: Sequence[Sweep]) -> Sweep | None:
    """Return the sweep that varies the one factor, None if no sweep does or if there are several factors."""
    if len(factors) != 1:
        return None
    key = factors[0].key
    return next((sweep for sweep in sweeps if key in [sweep.factor + ending for ending in CHOICE_KEYS]), None)


def level_place(sweep: Sweep, level: Hashable) -> int | None:
    """Return the place of a run's value among the sweep's levels, None if it is none of them."""
    return next((place for place, known in enumerate(sweep.levels) if same_level(known.value, level)), None)


def level_title(sweep: Sweep, level: Hashable, text: str) -> str:
    """Return a level's label in the sweep file; for a level that is not in it, `text` in the style of those that are.

    E.g. "T = 0.8" beside "T = 0.6"; "" if the file's labels have no common style.
    """
    place = level_place(sweep, level)
    if place is not None:
        return sweep.levels[place].label
    styles = Counter(
        known.label.removesuffix(str(known.value)) for known in sweep.levels if known.label.endswith(str(known.value))
    )
    return f"{styles.most_common(1)[0][0]}{text}" if styles else ""


def same_level(written: Any, level: Hashable) -> bool:
    """Return whether a level as a sweep file writes it (ppo) means a run's value (gae)."""
    return frozen(written) == level or (isinstance(written, str) and ESTIMATORS.get(written) == level)
