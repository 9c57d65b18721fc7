"""Read a file of sweeps/: a factor and its levels, or arms one by one; the seeds; and the claims that it tests.

docs/own_sweep.md has all that a file may say. Both ends read it: the sweeper takes the arms; the analysis takes the
axes, the order of the arms and the claims. So this module is light.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.project import SWEEPS_DIR
from experiments.values import is_number

KEYS = ("title", "factor", "levels", "arms", "seeds", "claims", "include")
KINDS = ("order", "rises_faster", "close", "rises", "falls", "never_rises", "slows", "settles", "minimum_inside")
SIGNS = (">", ">=")
KEY = re.compile(r"(\+\+?)?[A-Za-z_][\w@/.-]*")  # of a config, or the name of a group
NO_FACTORS = ("seed", "sweeps", "arms")
DEPTH = 8  # how deep the lists and mappings of a value may be


@dataclass(frozen=True)
class Level:
    """One arm of a sweep."""

    value: Any
    """The value of the factor; for one of `arms`, its label."""
    label: str
    others: Mapping[str, Any] = field(default_factory=dict)
    """What the arm sets besides the factor, by key or group."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the article, and what would be seen if it held."""

    name: str
    text: str
    metric: str
    kind: str
    """One of KINDS."""
    levels: tuple[Any, ...]
    """The values of the levels that the claim speaks about; for "order", the level with the highest metric first."""
    at: tuple[float, float]
    """The part of the training whose mean counts, as shares of its steps: (0.8, 1.0) is the last fifth."""
    or_equal: tuple[bool, ...] = ()
    """For "order": for each level but the last, whether the claim says only that it is not lower than the next."""
    margin: float | None = None
    """A difference of the metric that counts as none; None: a twentieth of its size."""


@dataclass(frozen=True)
class Sweep:
    """The arms around a baseline that differ in one factor, or in the settings that each of them lists."""

    name: str
    title: str
    factor: str
    """A key of the config, or a group of conf/; "" if the arms are listed one by one."""
    levels: tuple[Level, ...]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]

    def settings(self, level: Level) -> dict[str, Any]:
        """Return what an arm sets, by key or group."""
        return {**({self.factor: level.value} if self.factor else {}), **level.others}


class Wrong(ValueError):
    """A part of a file is not as it must be: the text follows "sweeps/NAME.yaml must"."""


def load_sweeps(names: Sequence[str], folder: Path = SWEEPS_DIR) -> list[Sweep]:
    """Return the named sweeps, each once; a file with `include` gives the sweeps that it names.

    UserError names every mistake in the files.
    """
    problems: list[str] = []
    found: dict[str, Sweep] = {}
    for name in names:
        content = _content(name, folder, problems)
        for part in _included(name, content, folder, problems) if "include" in content else [name]:
            if part not in found and (given := content if part == name else _content(part, folder, problems)):
                try:
                    found[part] = _read(part, given)
                except Wrong as wrong:
                    problems += [f"sweeps/{part}.yaml must {problem}" for problem in wrong.args]
    if not names:
        problems.append(f"sweeps must name files of sweeps/, but names none; take some of {', '.join(_known(folder))}")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return list(found.values())


def _known(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


@cache
def _loader() -> Any:
    """Return PyYAML's safe loader, changed so that a level is read as Hydra reads the same words in conf/.

    1e-4 is a number, a date is a text, and a key that stands twice is an error: PyYAML would drop the first.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            keys = [key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if twice := next((key for key in keys if keys.count(key) > 1), None):
                raise yaml.constructor.ConstructorError(None, None, f"{twice} stands twice", node.start_mark)
            return super().construct_mapping(node, deep)

    dates = "tag:yaml.org,2002:timestamp"
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != dates]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+")
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(rf"(?:{number.pattern})$"), list("-+.0123456789")
    )
    return Loader


def _content(name: str, folder: Path, problems: list[str]) -> Mapping[str, Any]:
    import yaml

    known = _known(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean {near[0]}?" if near else f"take some of {', '.join(known)}"
        problems.append(f"sweeps must name files of sweeps/, but there is no {name}.yaml; {do}")
        return {}
    try:
        content = yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"), _loader())
    except Exception as error:  # PyYAML raises anything for a tag that does not fit, e.g. KeyError for `!!bool x`
        told = " ".join(str(error).split())
        problems.append(f"sweeps/{name}.yaml must be YAML, but can't be read: {told}; mend it")
        return {}
    if not isinstance(content, dict) or any(key not in KEYS for key in content):
        extra = ", ".join(str(key) for key in content if key not in KEYS) if isinstance(content, dict) else "no mapping"
        problems.append(f"sweeps/{name}.yaml must have the keys {', '.join(sorted(KEYS))}, but has {extra}; drop it")
        return {}
    if not content:
        problems.append(f"sweeps/{name}.yaml must have a factor and levels, but is empty; see docs/own_sweep.md")
    return content


def _included(name: str, content: Mapping[str, Any], folder: Path, problems: list[str]) -> list[str]:
    included, others = content["include"], [key for key in content if key != "include"]
    if others:
        problems.append(
            f"sweeps/{name}.yaml must have nothing beside include, but has {', '.join(others)}; drop one of the two"
        )
    elif not isinstance(included, list) or not included or not all(isinstance(one, str) for one in included):
        problems.append(
            f"sweeps/{name}.yaml must include a list of files of sweeps/, but includes {_short(included)}; "
            f"try [{', '.join(one for one in _known(folder) if one != name)}]"
        )
    elif nested := [one for one in included if one in _known(folder) and "include" in _content(one, folder, [])]:
        problems.append(
            f"sweeps/{name}.yaml must include files that have arms, but {nested[0]} includes others; name those"
        )
    else:
        return included
    return []


def _read(name: str, content: Mapping[str, Any]) -> Sweep:
    """Return the sweep of a file; Wrong names its mistakes."""
    problems: list[str] = []

    def part(read: Any, *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except Wrong as wrong:
            problems.extend(wrong.args)

    title = part(_text, "a title that is a text", content.get("title", name))
    factor, levels = part(_arms, content) or ("", ())
    seeds = part(_seeds, content.get("seeds", [1]))
    claims = content.get("claims", [])
    if not isinstance(claims, list):
        problems.append(f"have a list of claims, but they are {_short(claims)}; begin each with a dash")
        claims = []
    read = [claim for given in claims if (claim := part(_claim, given, levels))]
    if twice := [claim.name for place, claim in enumerate(read) if claim.name in [one.name for one in read[:place]]]:
        problems.append(f"give each claim a name of its own, but two are {twice[0]}; rename one")
    if problems:
        raise Wrong(*problems)
    return Sweep(name, title, factor, levels, seeds, tuple(read))


def _arms(content: Mapping[str, Any]) -> tuple[str, tuple[Level, ...]]:
    """Return (the factor, or "" if the arms are listed one by one; the arms)."""
    if "arms" in content and ("factor" in content or "levels" in content):
        raise Wrong("have either arms, or a factor and levels, but has both; drop one of the two")
    key = "arms" if "arms" in content else "levels"
    given = content.get(key) or []
    factor = "" if key == "arms" else content.get("factor")
    if factor is None:
        raise Wrong("have a factor, but has none; name the key of the config that the levels set, or list arms")
    if key == "levels":
        _key(factor, "a factor")
    if not isinstance(given, list) or not given:
        found = "has none" if not given else f"they are {_short(given)}"
        do = "the factor's values under levels" if key == "levels" else "what each arm sets under arms"
        raise Wrong(f"have {key}, but {found}; list {do}")
    levels = tuple((_level if key == "levels" else _arm)(item) for item in given)
    for what, words in (("value", [_same(level.value) for level in levels]), ("label", [one.label for one in levels])):
        if twice := next((level for level, word in zip(levels, words, strict=True) if words.count(word) > 1), None):
            raise Wrong(f"have {key} that differ, but two have the {what} {getattr(twice, what)!r}; change one")
    return factor, levels


def _level(given: Any) -> Level:
    """Return a level: a bare value, or a mapping with `value`, perhaps `label`, and what else the arm sets."""
    if not isinstance(given, dict):
        given = {"value": given}
    if "value" not in given:
        raise Wrong(f"have levels with a value, but one is {_short(given)}; write {{value: ...}}, or the value alone")
    value = _value(given["value"])
    label = _text("labels that are texts", given.get("label", str(value)))
    return Level(value, label, _settings({key: item for key, item in given.items() if key not in ("value", "label")}))


def _arm(given: Any) -> Level:
    """Return one of `arms`: a mapping of what the arm sets, perhaps with `label`."""
    if not isinstance(given, dict) or not given.keys() - {"label"}:
        raise Wrong(f"have arms that set something, but one is {_short(given)}; write {{rollout.n: 3, kl.coef: 0.01}}")
    settings = _settings({key: item for key, item in given.items() if key != "label"})
    label = _text("labels that are texts", given.get("label", ", ".join(f"{key}={settings[key]}" for key in settings)))
    return Level(label, label, settings)


def _settings(given: Mapping[Any, Any]) -> dict[str, Any]:
    return {_key(key, "arms that set"): _value(value) for key, value in given.items()}


def _key(given: Any, what: str) -> str:
    if not isinstance(given, str) or not KEY.fullmatch(given):
        raise Wrong(f"have {what} that is a key of the config or a group, but has {_short(given)}; try rollout.n")
    if given.lstrip("+") in NO_FACTORS:
        raise Wrong(f"have {what} other than {given}, which is not a setting of an arm; list seeds under seeds")
    return given


def _value(given: Any, depth: int = 0) -> Any:
    if isinstance(given, list) and depth < DEPTH:
        return [_value(item, depth + 1) for item in given]
    if isinstance(given, dict) and depth < DEPTH and all(isinstance(key, str) for key in given):
        return {key: _value(item, depth + 1) for key, item in given.items()}
    if given is None or isinstance(given, (str, int, float)):
        return given
    raise Wrong(f"have values that a config can have, but one is {_short(given)}; write a number, a text or a list")


def _seeds(given: Any) -> tuple[int, ...]:
    """Return the seeds: as listed, or 1, 2, ... if their number is given."""
    numbers = list(range(1, given + 1)) if _is_whole(given) and given <= 1000 else given
    good = isinstance(numbers, list) and numbers and all(_is_whole(seed) or seed == 0 for seed in numbers)
    if not good or len(set(numbers)) < len(numbers) or any(isinstance(seed, (bool, float)) for seed in numbers):
        raise Wrong(f"have seeds that are different whole numbers, but they are {_short(given)}; try [1, 2, 3], or 3")
    return tuple(numbers)


def _claim(given: Any, levels: Sequence[Level]) -> Claim:
    if not isinstance(given, dict):
        raise Wrong(f"have claims that are mappings, but one is {_short(given)}; see docs/own_sweep.md")
    name, text, metric = (_text(f"claims with a {key}", given.get(key)) for key in ("name", "text", "metric"))
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        found = "none" if not kinds else f"{' and '.join(kinds)}; drop one"
        raise Wrong(f"say one thing in claim {name}, one of {', '.join(KINDS)}, but says {found}")
    if extra := [key for key in given if key not in ("name", "text", "metric", "at", "margin", kinds[0])]:
        raise Wrong(f"have nothing else in claim {name}, but has {', '.join(map(str, extra))}; drop it")
    at = given.get("at", [0.0, 1.0])
    shares = isinstance(at, list) and len(at) == 2 and all(isinstance(x, (int, float)) for x in at)
    if not shares or not 0 <= at[0] < at[1] <= 1:
        raise Wrong(
            f"have in claim {name} an `at` of two rising shares of the steps, 0 to 1, but it is {_short(at)}; "
            "the last fifth of the steps is [0.8, 1.0]"
        )
    items = given[kinds[0]]
    if not isinstance(items, list) or not items:
        raise Wrong(f"list levels in claim {name} under {kinds[0]}, but has {_short(items)}; put them into []")
    spoken = [_value(item) for item in items if item not in SIGNS]
    signs = [item for item in items if item in SIGNS]
    between = kinds[0] == "order" and items[1::2] == signs and len(signs) == len(spoken) - 1
    if signs and not between:
        raise Wrong(
            f"mend claim {name}: > and >= must stand between the levels of an order, between all or none, but it has "
            f"{_short(items)}; see docs/own_sweep.md"
        )
    known = [_same(level.value) for level in levels]
    if levels and (strange := [item for item in spoken if _same(item) not in known]):
        values = ", ".join(str(level.value) for level in levels)
        raise Wrong(f"speak in claim {name} of its levels, but {_short(strange[0])} is none; take some of {values}")
    least = 2 if kinds[0] in ("order", "rises_faster", "close") else 1
    most = 2 if kinds[0] == "close" else len(spoken)
    if not least <= len(set(map(_same, spoken))) == len(spoken) <= most:
        number = "two" if most == 2 == least else f"at least {'two' if least == 2 else 'one'}"
        raise Wrong(
            f"name in claim {name} {number} different levels under {kinds[0]}, but has {_short(items)}; mend it"
        )
    or_equal = tuple(sign == ">=" for sign in signs)
    margin = given.get("margin")
    if margin is not None and not (is_number(margin) and margin > 0):
        raise Wrong(f"have in claim {name} a margin above 0, but it is {_short(margin)}; try 0.02")
    return Claim(name, text, metric, kinds[0], tuple(spoken), (float(at[0]), float(at[1])), or_equal, margin)


def _text(what: str, given: Any) -> str:
    if isinstance(given, (bool, list, dict)) or given is None or not str(given).strip():
        raise Wrong(f"have {what}, but one is {_short(given)}; write a word or a sentence")
    return str(given)


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given > 0


def _same(value: Any) -> str:
    """Return a text that equal levels share: 1 and 1.0 are equal, 1 and true are not."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return json.dumps(float(value) if number else value, sort_keys=True, default=str)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
