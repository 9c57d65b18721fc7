"""The jobs of a command with hydra/sweeper=ablation, the default sweeper.

It reads Hydra's own comma syntax; `sweeps=temperature,kl` for files of sweeps/; and `arms={...},{...}` for arms that
set several keys at once. The arms of a file, or of `arms=`, stand around whatever else the command says. Several sweeps
share the baseline: each of them asks for it, and the plan counts it once. Unlike Hydra's basic sweeper this one
composes nothing: our launchers compose every job before they start any.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.utils import JobReturn

from experiments.config.choices import groups
from experiments.config.overrides import check_overrides
from experiments.config.product import product
from experiments.config.sweep_files import load_sweeps
from experiments.config.verl import override
from experiments.errors import UserError
from experiments.values import flatten, meets

SWEEPS, ARMS = "sweeps", "arms"


@dataclass(frozen=True)
class ListedArm:
    """An arm that a sweep's file or `arms=` lists."""

    settings: Mapping[str, Any]
    """By key or group."""
    said_by: str
    """What lists it, as the command says it: sweeps=kl, or arms."""
    seeds: tuple[int, ...] = ()
    """Those of the file."""

    def overrides(self) -> list[str]:
        return [override(key, value) for key, value in self.settings.items()]

    def marks(self) -> list[str]:
        """Return the override that tells a job which sweep it serves."""
        return [override(SWEEPS, [self.said_by.removeprefix(f"{SWEEPS}=")])] if self.said_by != ARMS else []


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every job of a command: the product of its swept values, times its listed arms."""
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    rest = [item for item in parsed if item.key_or_group not in (SWEEPS, ARMS)]
    arms = listed_arms(parsed)
    if arms is None:
        return product(rest)
    given = {key for item in rest for key in _keys_set(item)}
    _check_given(arms, given)
    around = product(rest)
    for arm in arms if around else ():  # a factor may be a key of a group that the command chooses
        check_overrides([*around[0], *arm.overrides()])
    return [
        [*job, *arm.overrides(), *seed, *arm.marks()]
        for arm in arms
        for job in around
        for seed in ([[]] if "seed" in given or not arm.seeds else [[override("seed", seed)] for seed in arm.seeds])
    ]


def listed_arms(parsed: Sequence[Override]) -> list[ListedArm] | None:
    """Return the arms that sweeps= or arms= list; None if the command has neither."""
    asked = [item for item in parsed if item.key_or_group in (SWEEPS, ARMS)]
    if not asked:
        return None
    if len({item.key_or_group for item in asked}) > 1:
        raise UserError("arms must not stand beside sweeps, since both list arms; drop one of the two")
    if asked[-1].key_or_group == ARMS:
        return [ListedArm(settings, ARMS) for settings in _arms(asked[-1])]
    return [
        ListedArm(sweep.settings(level), f"{SWEEPS}={sweep.name}", sweep.seeds)
        for sweep in load_sweeps(names(asked[-1]))
        for level in sweep.levels
    ]


def _arms(item: Override) -> list[dict[str, Any]]:
    """Return what each arm of arms={...},{...} or arms=[{...},{...}] sets."""
    values: list[Any] = list(item.sweep_iterator()) if item.is_discrete_sweep() else [item.value()]
    arms: list[Any] = [one for value in values for one in (value if isinstance(value, list) else [value])]
    for arm in arms:
        if not isinstance(arm, dict) or not arm:
            raise UserError(
                f"{ARMS} must be mappings of what each arm sets, but one is {arm}; write "
                "'arms={rollout.n: 3, kl.coef: 0.01},{rollout.n: 8, kl.coef: 0.001}'"
            )
        if bad := [key for key in arm if str(key).lstrip("+") in (SWEEPS, ARMS, "seed")]:
            raise UserError(f"{ARMS} must not set {bad[0]}; write it beside arms=, for all of them")
    return [{str(key): value for key, value in arm.items()} for arm in arms]


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


def _check_given(arms: Sequence[ListedArm], given: set[str]) -> None:
    """Raise UserError if the command sets what the arms set."""
    ours = groups()
    twice = {
        f"{name} must not be set beside {arm.said_by}, which varies it; drop one of the two": None
        for arm in arms
        for name in arm.settings
        for key in given
        if key == name or (not {key, name} & ours and meets(key, name))
    }
    if twice:
        raise UserError(*twice)


def _keys_set(item: Override) -> set[str]:
    """Return the keys, or the group, that an override sets; of a mapping its leaves."""
    values: list[Any] = list(item.sweep_iterator()) if item.is_discrete_sweep() else [item.value()]
    return {
        key
        for value in values
        for key, _ in (flatten(value, f"{item.key_or_group}.") if isinstance(value, dict) else [(item.key_or_group, 0)])
    }
