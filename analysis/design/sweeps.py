"""The sweep files' view of an ablation: the order and labels of its arms, and the claims it tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from analysis.design.arms import ALGORITHMS, Factor, frozen
from experiments.config.sweep_files import Sweep, load_sweeps
from experiments.project import SWEEPS_DIR

# A factor may be a group of conf/: what its choice sets.
CHOICE_KEYS = ("", ".name", ".adv_estimator", ".schedule")
ESTIMATORS = {name.lower(): estimator for estimator, name in ALGORITHMS.items()}


def read_sweeps() -> list[Sweep]:
    """Return all sweeps of sweeps/; UserError naming every mistake in them."""
    return load_sweeps(sorted(file.stem for file in SWEEPS_DIR.glob("*.yaml")))


def sweep_of(factors: Sequence[Factor], sweeps: Sequence[Sweep]) -> Sweep | None:
    """Return the sweep that varies just this factor, None if there is none."""
    if len(factors) != 1:
        return None
    key = factors[0].key
    return next((sweep for sweep in sweeps if key in [sweep.factor + ending for ending in CHOICE_KEYS]), None)


def level_place(sweep: Sweep, level: Hashable) -> int | None:
    """Return which of the sweep's levels a run's value is, None for none of them."""
    return next((place for place, known in enumerate(sweep.levels) if same_level(known.value, level)), None)


def same_level(written: Any, level: Hashable) -> bool:
    """Return whether a level as a sweep file writes it (ppo) is a run's value (gae)."""
    return frozen(written) == level or (isinstance(written, str) and ESTIMATORS.get(written) == level)
