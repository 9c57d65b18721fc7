"""Check the overrides of a command by themselves: their grammar, their keys, their types and the choices of groups."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.config.choices import bad_choices, groups
from experiments.config.compose import plain, register_resolvers
from experiments.config.hydra_internals import hydra_in
from experiments.config.product import product
from experiments.errors import UserError
from experiments.project import CONFIG_DIR
from experiments.values import flatten, nodes

LISTS = ("sweeps", "arms")  # what lists arms in a command: no keys that a run has


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return the overrides parsed; UserError naming each that is not in Hydra's grammar."""
    parsed, problems = parse(overrides)
    if problems:
        raise UserError(*problems.values())
    return parsed


def parse(overrides: Sequence[str]) -> tuple[list[Override], dict[str, str]]:
    """Return the overrides parsed, and by override a problem for each that is not in Hydra's grammar."""
    parser = OverridesParser.create()
    parsed, problems = {}, {}
    for line in overrides:
        try:
            parsed[line] = parser.parse_override(line)
        except HydraException:
            key, equals, value = line.partition("=")
            quoted = shlex.quote(f'{key}="{value}"')
            do = f"where the value has special characters, quote it twice: {quoted}" if equals else "write key=value"
            problems[line] = f"an override must be in Hydra's grammar, but is {line}; {do}"
    for line, whole in _torn_apart(overrides, [*problems, "="]).items():
        what = "a list of values" if "," in whole else "an override"
        problems[line] = f"{what} must have no blanks, but the shell took one apart at them; write {whole}"
    return [parsed[line] for line in overrides if line not in problems], problems


def _torn_apart(overrides: Sequence[str], wrong: Sequence[str]) -> dict[str, str]:
    """Return, by its parts, each override that a shell has taken apart at its blanks: `key=0.6, 1.0`, `key={lr: 1}`.

    A part is left open by a comma, an equals sign or a bracket. `wrong`: the parts that are no overrides; one of them
    must be among the parts.
    """
    torn: dict[str, str] = {}
    left = list(overrides)
    while left:
        parts = [left.pop(0)]
        while left and (left[0].startswith((",", "=")) or ("=" not in left[0] and _is_open("".join(parts)))):
            parts.append(left.pop(0))
        if len(parts) > 1 and not set(wrong).isdisjoint(parts):
            torn |= dict.fromkeys(parts, shlex.quote("".join(parts)))
    return torn


def _is_open(text: str) -> bool:
    """Return whether the beginning of an override wants a continuation."""
    _, equals, value = text.partition("=")
    return (
        text.endswith(",")
        or (bool(equals) and not value)
        or any(text.count(a) > text.count(b) for a, b in ("[]", "{}", "()"))
    )


@dataclass(frozen=True)
class Checked:
    """What is wrong with the overrides of a command, and the overrides that can still be used."""

    problems: list[str]
    rest: list[str] | None
    """The right ones, with stand-ins for choices that do not exist; None if nobody can tell what was meant."""
    partial: Sequence[str] = ()
    """The right ones that set a key which the config lacks until a choice of a group that varies is made."""


def check_overrides(overrides: Sequence[str]) -> None:
    """Raise one UserError that names every override with a wrong choice, a wrong key or a value of a wrong type."""
    if problems := checked(overrides).problems:
        raise UserError(*problems)


def checked(overrides: Sequence[str], listed: Sequence[Sequence[str]] = ()) -> Checked:
    """Return what is wrong with overrides: grammar, a choice or a key that does not exist, values of a wrong type.

    A key exists if it is in veRL's tree or in conf/; where the jobs choose different files of a group, all of these
    must have it. `+key=value` adds a new key on purpose, so it is accepted. `listed`: what each arm of sweeps= or arms=
    sets besides, as overrides.
    """
    register_resolvers()
    parsed, ungrammatical = parse(overrides)
    found = {line: [problem] for line, problem in ungrammatical.items()}
    ours = groups()
    with hydra_in(str(CONFIG_DIR)):
        bad = bad_choices(parsed)
        stand_ins, _ = parse([line for choice in bad.values() for line in choice.instead or ()])
        right = [item for item in parsed if item.key_or_group in ours and item.input_line not in bad]
        chosen = [item for item in (*right, *stand_ins) if not isinstance(item.value(), dict)]
        variants = _variants(chosen, listed, [item for item in parsed if item.key_or_group not in ours])
        unswept = tuple(product([item for item in chosen if not item.is_sweep_override()])[0])
        master = _composed(unswept) if len(variants) > 1 or (listed and variants[0].choices != unswept) else variants[0]
    base, unclear = variants[0], {choice.group for choice in bad.values() if choice.instead is None}
    found |= {line: choice.problems for line, choice in bad.items()}
    partial = []
    for item in parsed:
        key, line = item.key_or_group, item.input_line or ""
        chooses = key in ours and not isinstance(item.value(), dict)
        if item.is_add() or item.is_force_add() or chooses or key in LISTS or key.startswith("hydra/"):
            continue
        of_hydra = key.startswith("hydra.")
        lacking = [one for one in variants if key not in (one.of_hydra if of_hydra else one.known)]
        if not lacking:
            problems = [] if of_hydra else _value_problems(item, base)
        elif len(lacking) < len(variants):
            problems = [_lacking(key, lacking, [one for one in variants if one not in lacking])]
        else:  # a key below a group may be right if nobody can tell which file of the group was meant
            every = base.of_hydra if of_hydra else dict.fromkeys(name for one in variants for name in one.known)
            problems = [] if key.split(".")[0] in unclear else [unknown_key(key, every, () if of_hydra else ours)]
        if problems:
            found.setdefault(line, []).extend(problems)
        elif not of_hydra and key not in master.known:
            partial.append(line)
    told = list(dict.fromkeys(problem for line in overrides for problem in found.get(line, ())))
    if unclear:
        return Checked(told, None)
    instead = {line: choice.instead or [] for line, choice in bad.items()}
    rest = [one for line in overrides for one in instead.get(line, [] if line in found else [line])]
    return Checked(told, rest, partial)


@dataclass(frozen=True)
class _Variant:
    """The config of some group choices, before any value is set."""

    choices: tuple[str, ...]
    """The overrides that choose."""
    config: DictConfig
    known: dict[str, Any]
    """Every key with its value."""
    of_hydra: dict[str, Any]
    """The same for the keys that begin with "hydra."."""


@cache
def _composed(choices: tuple[str, ...]) -> _Variant:
    """Return the config of group choices; the arms of a sweep share most of theirs. Hydra must be initialised."""
    config = compose("config", overrides=list(choices), return_hydra_config=True)
    with open_dict(config):
        of_hydra = OmegaConf.create({"hydra": config.pop("hydra")})
    return _Variant(choices, config, dict(nodes(plain(config))), dict(nodes(plain(of_hydra))))


def _variants(
    chosen: Sequence[Override], listed: Sequence[Sequence[str]], setting: Sequence[Override]
) -> list[_Variant]:
    """Return the different configs whose groups the jobs of a command choose.

    If all keys that the command sets are in the first config, and none is in a group that varies, that one is enough.
    """
    ours = groups()
    of_arms, _ = parse([line for lines in listed for line in lines if line.split("=")[0].lstrip("+") in ours])
    wrong = bad_choices(of_arms)  # `jobs` reports them
    usable = {item.input_line for item in of_arms if item.input_line not in wrong}
    ways = dict.fromkeys(
        (*job, *(line for line in lines if line in usable)) for lines in listed or [()] for job in product(chosen)
    )
    first, *others = ways
    varying = {item.key_or_group for item in chosen if item.is_sweep_override()}
    varying |= {item.key_or_group for item in of_arms}
    keys = [item.key_or_group for item in setting if not item.key_or_group.startswith("hydra")]
    known = _composed(first).known
    if any(key.split(".")[0] in varying or (key not in known and key not in LISTS) for key in keys):
        return [_composed(way) for way in (first, *others)]
    return [_composed(first)]


def _lacking(key: str, without: Sequence[_Variant], having: Sequence[_Variant]) -> str:
    """Return the message for a key that the config has with some of a command's group choices only."""

    def only(some: Sequence[_Variant], others: Sequence[_Variant]) -> list[str]:
        lines = dict.fromkeys(line for one in some for line in one.choices)
        return [line for line in lines if not any(line in other.choices for other in others)]

    blamed = only(without, having) or [" ".join(one.choices) for one in without]
    good = only(having, without)
    but = f"{' and '.join(blamed)} {'has' if len(blamed) == 1 else 'have'} none of that name"
    unlike = f", unlike {' and '.join(good)}" if good else ""
    do = "leave that choice out" if len(blamed) == 1 else "leave those choices out"
    return f"{key} must be a key of every arm's config, but {but}{unlike}; {do}, or list the arms one by one with arms="


def _value_problems(item: Override, base: _Variant) -> list[str]:
    """Return what is wrong with the values that an override gives to an existing key; of a mapping, to its keys."""
    key = item.key_or_group
    if item.is_delete():
        return [f"{key} must stay, since something reads it, but is deleted (~); set a value instead"]
    if item.is_interval_sweep():  # for an optimising sweeper, which only draws numbers from it
        return []
    found = []
    free = frozenset(name for name, value in base.known.items() if value is None or value == {})
    values: list[Any] = list(item.sweep_iterator()) if item.is_sweep_override() else [item.value()]
    for value in (value.text if isinstance(value, QuotedString) else value for value in values):
        pairs = [(key, value)]
        if isinstance(value, dict) and value and key not in free:
            found += [unknown_key(name, base.known) for name in unknown(value, base.known, free, f"{key}.")]
            pairs = [(name, one) for name, one in flatten(value, f"{key}.") if name in base.known]
        for name, one in pairs:
            expected = _selected(base.config, name)
            if wanted := _type_problem(expected, one):
                found.append(f"{name} must be {wanted}, but is {one!r}; its default is {expected!r}")
    return found


def unknown(
    content: Mapping[str, Any], known: Collection[str], free: Collection[str], prefix: str = ""
) -> Iterator[str]:
    """Yield the dotted keys that are not in `known`. Inside a key of `free` the user may set any key."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if name not in known:
            yield name
        elif isinstance(value, dict) and name not in free:
            yield from unknown(value, known, free, f"{name}.")


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
