"""The jobs of a command with hydra/sweeper=ablation, the default sweeper.

It reads Hydra's own comma syntax, and `sweeps=temperature,kl` for files of sweeps/. A named sweep varies one factor at
a time around whatever else the command says. Several sweeps share the baseline: each of them asks for it, and the plan
counts it once. Unlike Hydra's basic sweeper this one composes nothing: our launchers compose every job before they
start any.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.utils import JobReturn

from experiments.config.overrides import check_overrides
from experiments.config.sweep_files import Sweep, load_sweeps
from experiments.config.verl import override
from experiments.errors import UserError

SWEEPS = "sweeps"


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every job of a command: the product of its swept values, times its sweeps' arms."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    asked = [item for item in parsed if item.key_or_group == SWEEPS]
    rest = [item for item in parsed if item.key_or_group != SWEEPS]
    if not asked:
        return product(rest)
    sweeps = load_sweeps(names(asked[-1]))
    given = {item.key_or_group for item in rest}
    _check_given(sweeps, given)
    around = product(rest)
    for sweep in sweeps if around else ():  # a factor may be a key of a group that the command chooses
        check_overrides([*around[0], *(override(sweep.factor, level.value) for level in sweep.levels)])
    return [
        [
            *job,
            override(sweep.factor, level.value),
            *([] if "seed" in given else [override("seed", seed)]),
            override(SWEEPS, [sweep.name]),
        ]
        for sweep in sweeps
        for level in sweep.levels
        for job in around
        for seed in (sweep.seeds if "seed" not in given else [None])
    ]


def product(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every job of a sweep: the product of the swept values. UserError for an interval.

    A later override of a key replaces an earlier one in its place, as in Hydra's basic sweeper. Mappings are merged by
    Hydra when it composes, so each of them stays.
    """
    lists: list[list[str]] = []
    places: dict[str, int] = {}
    for item in overrides:
        key = item.get_key_element()
        if item.is_sweep_override() and not item.is_discrete_sweep():
            raise UserError(
                f"{key} must have values that can be listed with hydra/sweeper=ablation, but {item.input_line} is an "
                "interval; list its values with commas, or choose hydra/sweeper=optuna"
            )
        if item.is_sweep_override():
            texts, values = list(item.sweep_string_iterator()), list[Any](item.sweep_iterator())
        else:
            texts, values = [item.get_value_element_as_str()], [item.value()]
        merges = all(isinstance(value, dict) for value in values)
        if key in places and not merges:
            lists[places[key]] = [f"{key}={text}" for text in texts]
        else:
            places[key] = len(lists)
            lists.append([f"{key}={text}" for text in texts])
    return [list(job) for job in itertools.product(*lists)]


def failed(returned: Sequence[JobReturn]) -> int:
    """Print why each job failed, and return how many did.

    For a launcher that is not ours: it returns the errors of its jobs, and reading `return_value` raises a job's error.
    """
    errors = 0
    for job in returned:
        try:
            _ = job.return_value  # on an error, Hydra prints which job it was
        except Exception as error:
            errors += 1
            print(f"error: {error}", file=sys.stderr)
    return errors


def names(item: Override) -> list[str]:
    """Return the names in sweeps=all, sweeps=temperature,kl or sweeps=[temperature,kl]."""
    values = list(item.sweep_iterator()) if item.is_sweep_override() else [item.value()]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [value.text if isinstance(value, QuotedString) else str(value) for value in flat if value is not None]


def _check_given(sweeps: Sequence[Sweep], given: set[str]) -> None:
    twice = [sweep for sweep in sweeps if sweep.factor in given]
    if twice:
        raise UserError(
            *(
                f"{sweep.factor} must not be set beside sweeps={sweep.name}, which varies it; drop one of the two"
                for sweep in twice
            )
        )
