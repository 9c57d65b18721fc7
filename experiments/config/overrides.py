"""Check the overrides of a command by themselves: their grammar, their keys, their types and the choices of groups."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.choices import BadChoice, bad_choices, groups
from experiments.config.compose import plain, register_resolvers
from experiments.config.hydra_internals import hydra_in
from experiments.errors import UserError
from experiments.project import CONFIG_DIR
from experiments.values import nodes


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return the overrides parsed; UserError naming each that is not in Hydra's grammar."""
    parsed, problems = parse(overrides)
    if problems:
        raise UserError(*problems.values())
    return parsed


def parse(overrides: Sequence[str]) -> tuple[list[Override], dict[str, str]]:
    """Return the overrides parsed, and by override a problem for each that is not in Hydra's grammar."""
    parser = OverridesParser.create()
    parsed, problems = [], {}
    torn = _torn_lists(overrides)
    for line in overrides:
        try:
            parsed.append(parser.parse_override(line))
        except HydraException:
            key, equals, value = line.partition("=")
            quoted = shlex.quote(f'{key}="{value}"')
            do = f"where the value has special characters, quote it twice: {quoted}" if equals else "write key=value"
            told = f"an override must be in Hydra's grammar, but is {line}; {do}"
            if line in torn:
                told = f"a list of values must have no blanks, but the shell took one apart at them; write {torn[line]}"
            problems[line] = told
    return parsed, problems


def _torn_lists(overrides: Sequence[str]) -> dict[str, str]:
    """Return, by its parts, each list of values that a shell has taken apart at the blanks: `key=0.6, 1.0`."""
    torn: dict[str, str] = {}
    left = list(overrides)
    while left:
        parts = [left.pop(0)]
        while left and "=" not in left[0] and (parts[-1].endswith(",") or left[0].startswith(",")):
            parts.append(left.pop(0))
        if len(parts) > 1:
            torn |= dict.fromkeys(parts, "".join(parts))
    return torn


@dataclass(frozen=True)
class Checked:
    """What is wrong with the overrides of a command, and the overrides that can still be used."""

    problems: list[str]
    rest: list[str] | None
    """The right ones, with stand-ins for choices that do not exist; None if nobody can tell what was meant."""


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise one UserError that names every override with a wrong choice, a wrong key or a value of a wrong type."""
    if problems := checked(overrides).problems:
        raise UserError(*problems)


def checked(overrides: Sequence[str]) -> Checked:
    """Return what is wrong with overrides: grammar, a choice or a key that does not exist, values of a wrong type.

    A key exists if it is in veRL's tree or in conf/. `+key=value` adds a new key on purpose, so it is accepted.
    """
    register_resolvers()
    parsed, ungrammatical = parse(overrides)
    found = {line: [problem] for line, problem in ungrammatical.items()}
    with hydra_in(str(CONFIG_DIR)):
        bad = bad_choices(parsed)
        base = compose("config", overrides=_chosen(parsed, bad), return_hydra_config=True)
    with open_dict(base):
        of_hydra = OmegaConf.create({"hydra": base.pop("hydra")})
    known, known_to_hydra = dict(nodes(plain(base))), dict(nodes(plain(of_hydra)))
    unclear = {choice.group for choice in bad.values() if choice.instead is None}
    found |= {line: choice.problems for line, choice in bad.items()}
    ours = groups()
    for item in parsed:
        key, line = item.key_or_group, item.input_line or ""
        if item.is_add() or item.is_force_add() or key in ours or key == "sweeps" or key.startswith("hydra/"):
            continue
        of = known_to_hydra if key.startswith("hydra.") else known
        if key in of:
            problems = _value_problems(item, base) if of is known else []
        else:  # a key below a group may be right if nobody can tell which file of the group was meant
            problems = [] if key.split(".")[0] in unclear else [unknown_key(key, of, ours if of is known else ())]
        if problems:
            found.setdefault(line, []).extend(problems)
    told = list(dict.fromkeys(problem for line in overrides for problem in found.get(line, ())))
    if unclear:
        return Checked(told, None)
    stand_ins = {line: choice.instead or [] for line, choice in bad.items()}
    return Checked(told, [one for line in overrides for one in stand_ins.get(line, [] if line in found else [line])])


def _chosen(parsed: Sequence[Override], bad: Mapping[str, BadChoice]) -> list[str]:
    """Return the group choices that all jobs of a command share, with stand-ins for choices that do not exist."""
    ours = groups()
    right = [item for item in parsed if item.key_or_group in ours and item.input_line not in bad]
    stand_ins, _ = parse([line for choice in bad.values() for line in choice.instead or ()])
    return [item.input_line or "" for item in (*right, *stand_ins) if not item.is_sweep_override()]


def _value_problems(item: Override, base: DictConfig) -> list[str]:
    """Return what is wrong with the values that an override gives to an existing key."""
    key = item.key_or_group
    if item.is_delete():
        return [f"{key} must stay, since something reads it, but is deleted (~); set a value instead"]
    if item.is_interval_sweep():  # for an optimising sweeper, which only draws numbers from it
        return []
    expected, found = _selected(base, key), []
    values = list(item.sweep_iterator()) if item.is_sweep_override() else [item.value()]
    for value in (value.text if isinstance(value, QuotedString) else value for value in values):
        if wanted := _type_problem(expected, value):
            found.append(f"{key} must be {wanted}, but is {value!r}; its default is {expected!r}")
    return found


def unknown_key(key: str, known: Any, groups: Any = ()) -> str:
    """Return the message for a key that the config does not have, with the nearest keys that it has."""
    candidates = list(dict.fromkeys([*known, *groups]))
    near = difflib.get_close_matches(key, candidates, n=3, cutoff=0.6)
    last = key.rsplit(".", 1)[-1]
    if not near:
        near = [name for name in candidates if name.rsplit(".", 1)[-1] == last][:3]
    if not near:
        near = [name for name in candidates if difflib.get_close_matches(last, [name.rsplit(".", 1)[-1]], cutoff=0.8)][
            :3
        ]
    hint = f"did you mean {' or '.join(near)}?" if near else "see: python -m experiments.run show=config"
    return f"{key} must be a key of the config, but there is none of that name; {hint}"


def _selected(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(config, key)
    except Exception:  # an interpolation of a value that is not filled in yet: any type is accepted
        return None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _type_problem(expected: Any, value: Any) -> str | None:
    """Return what the value must be, or None if it fits the default. A whole-number default accepts any number."""
    text = isinstance(value, str)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None:
        return "a mapping" if isinstance(expected, dict) and expected else None
    if text and "${" in value:
        return None
    kinds = {
        bool: (isinstance(value, bool), "true or false"),
        int: (number, "a number"),
        float: (number, "a number"),
        list: (isinstance(value, list) or text, "a list"),
        dict: (isinstance(value, dict), "a mapping"),
        str: (text or number, "a text"),
    }
    fits, wanted = kinds.get(type(expected), (True, ""))
    return None if fits else wanted
