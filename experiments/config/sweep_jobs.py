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

from experiments.config.choices import groups
from experiments.config.overrides import check_overrides
from experiments.config.sweep_files import Sweep, load_sweeps
from experiments.config.verl import override
from experiments.errors import UserError
from experiments.values import flatten, meets

SWEEPS = "sweeps"


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every job of a command: the product of its swept values, times its sweeps' arms."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    asked = [item for item in parsed if item.key_or_group == SWEEPS]
    rest = [item for item in parsed if item.key_or_group != SWEEPS]
    if not asked:
        return product(rest)
    sweeps = load_sweeps(names(asked[-1]))
    given = {key for item in rest for key in _keys_set(item)}
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

    A later override of a key replaces an earlier one in its place, as in Hydra's basic sweeper. It stands last instead
    if an override between the two is about a part of the key's value or about what the key is part of: Hydra sets the
    values one after the other. Mappings are merged by Hydra when it composes, so each of them stays, and so does the
    choice of a group beside the values of its node: kl=default and kl={coef: 0}.
    """
    ours = groups()
    found: list[tuple[tuple[str, bool], str, list[str]]] = []
    for item in overrides:
        key, name = item.get_key_element(), item.key_or_group
        if item.is_sweep_override() and not item.is_discrete_sweep():
            raise UserError(
                f"{key} must have values that can be listed with hydra/sweeper=ablation, but {item.input_line} is an "
                "interval; list its values with commas, or choose hydra/sweeper=optuna"
            )
        if item.is_sweep_override():
            texts, values = list(item.sweep_string_iterator()), list[Any](item.sweep_iterator())
        else:
            texts, values = [item.get_value_element_as_str()], [item.value()]
        merges = any(isinstance(value, dict) for value in values)
        mark = (key, name in ours and not merges)
        replaced = [place for place, (other, _, _) in enumerate(found) if other == mark and not merges]
        place = replaced[0] if replaced else len(found)
        if any(other != mark and meets(one, name) for other, one, _ in found[place:]):
            place = len(found)
        found.insert(place, (mark, name, [f"{key}={text}" for text in texts]))
        for old in reversed(replaced):
            del found[old + (old >= place)]
    return [list(job) for job in itertools.product(*(texts for _, _, texts in found))]


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
    ours = groups()
    twice = [
        sweep
        for sweep in sweeps
        if any(key == sweep.factor or (not {key, sweep.factor} & ours and meets(key, sweep.factor)) for key in given)
    ]
    if twice:
        raise UserError(
            *(
                f"{sweep.factor} must not be set beside sweeps={sweep.name}, which varies it; drop one of the two"
                for sweep in twice
            )
        )


def _keys_set(item: Override) -> set[str]:
    """Return the keys, or the group, that an override sets; of a mapping its leaves."""
    values = list[Any](item.sweep_iterator()) if item.is_discrete_sweep() else [item.value()]
    return {
        key
        for value in values
        for key, _ in (flatten(value, f"{item.key_or_group}.") if isinstance(value, dict) else [(item.key_or_group, 0)])
    }
