"""The choices of config groups on a command line (model=..., kl=...): which exist, and which are wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob, Override, QuotedString

from experiments.project import CONFIG_DIR

OPTIONAL = ("experiment", "local")  # groups that a config may do without


@dataclass(frozen=True)
class BadChoice:
    """What is wrong with one override of a group, and what stands in for it while the rest is checked."""

    group: str
    problems: list[str]
    instead: list[str] | None
    """Overrides to put in its place; None if nobody can tell what was meant."""


def groups() -> set[str]:
    """Return the names of the groups of conf/, hydra/launcher included."""
    return {path.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*") if path.is_dir()}


def options(group: str) -> list[str]:
    """Return the choices of a group; for one of Hydra's (Hydra must be initialised) the choices of plugins too."""
    if group.startswith("hydra/"):
        return GlobalHydra.instance().config_loader().get_group_options(group)
    return sorted(file.stem for file in (CONFIG_DIR / group).glob("*.yaml"))


def bad_choices(parsed: Sequence[Override]) -> dict[str, BadChoice]:
    """Return, by override, those that choose a file that their group does not have or that delete the group."""
    ours = groups()
    items = [item for item in parsed if item.key_or_group in ours and item.package is None]
    return {item.input_line or "": bad for item in items if (bad := _bad(item))}


def _names(item: Override) -> list[str]:
    """Return the choices that an override gives a group, as texts: one, a list, or the values of a sweep."""
    if isinstance(item.value(), Glob):
        return []
    given = list(item.sweep_iterator()) if item.is_discrete_sweep() else [item.value()]
    values = [one for value in given for one in (value if isinstance(value, list) else [value])]
    texts = [value.text if isinstance(value, QuotedString) else value for value in values]
    return [str(text) for text in texts if isinstance(text, (str, int, float)) and "${" not in str(text)]


def _bad(item: Override) -> BadChoice | None:
    group = item.key_or_group
    if item.is_delete() or (item.value() is None and not item.is_sweep_override()):
        if item.is_delete() and group in OPTIONAL:
            return None
        found = "deleted (~)" if item.is_delete() else "null"
        problem = f"{group} must be one of its choices, but is {found}; leave it out, or choose one of conf/"
        return BadChoice(group, [problem], [])
    there, usable, problems = options(group), [], []
    for name in _names(item):
        if name.removesuffix(".yaml") in there or (CONFIG_DIR / group / f"{name}.yaml").is_file():
            usable.append(name)
        else:
            near = difflib.get_close_matches(name, there, n=3, cutoff=0.7)
            usable += near[:1]
            problems.append(_problem(group, name, there, near))
    if not problems:
        return None
    several = ",".join(dict.fromkeys(usable))
    chosen = f"{item.get_key_element()}={f'[{several}]' if isinstance(item.value(), list) else several}"
    return BadChoice(group, problems, [chosen] if usable else None)


def _problem(group: str, name: str, there: list[str], near: list[str]) -> str:
    names = " or ".join([", ".join(there[:-1]), there[-1]] if there[1:] else there)
    do = f"did you mean {' or '.join(near)}? (the rest is checked with {near[0]})" if near else "choose one of them"
    return f"{group} must be {names}, but is {name!r}; {do}"
