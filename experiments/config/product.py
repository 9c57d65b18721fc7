"""The jobs of Hydra's own comma syntax: every combination of the swept values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from experiments.config.choices import groups
from experiments.errors import UserError
from experiments.values import meets


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
