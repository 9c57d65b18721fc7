"""Read a file of sweeps/: one factor and its levels around the baseline, the seeds, and the claims that it tests.

Both ends read it: the sweeper takes the levels; the analysis takes the axes, the order of the arms and the claims. So
this module is light.

    title: Rollout temperature            # of the figure
    factor: rollout.temperature           # a key of the config, or a group of conf/
    levels:                               # in the order of the legend; one of them is the baseline's
      - {value: 0.6, label: "T = 0.6"}
    seeds: [1, 2, 3]
    claims:                               # what the article says, as something that can be tested
      - name: ...                         # short, unique in the file
        text: ...                         # the article's sentence
        metric: val-core/countdown/acc/mean@1
        at: [0.8, 1.0]                    # the part of the training whose mean counts, as shares of its steps
        order: [1.0, 0.6]                 # the metric is higher in each level than in the next ...
        # order: [8, ">=", 5, ">", 3]     # ... (>=: higher, equal, or lower by less than the margin) ...
        # slope: [1.2, 1.0]               # ... or: within `at` it rises more in each level than in the next ...
        # close: [8, 5]                   # ... or: these two differ by less than the margin ...
        # rises: [1.0]  falls: [1.2]      # ... or: in these levels its mean in `at` is above (below) its first mean ...
        # never_rises: [0]                # ... or: ... is less than the margin above its first mean ...
        # slows: [0.01]                   # ... or: in these it rises less within `at` than it did at first ...
        # settles: [1.0]                  # ... or: in these it changes within `at` by less than the margin ...
        # minimum_inside: [1.0]           # ... or: in these levels it falls first and then rises

        margin: 0.02                      # which difference counts as none; else a twentieth of the metric

"At first" and "first mean": in a part as long as `at` that begins with the training.

A file with `include: [NAME, ...]` instead of a factor stands for the sweeps that it names.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.project import SWEEPS_DIR
from experiments.values import is_number

KEYS = {"title", "factor", "levels", "seeds", "claims", "include"}
KINDS = ("order", "slope", "close", "rises", "falls", "never_rises", "slows", "settles", "minimum_inside")
SIGNS = (">", ">=")


@dataclass(frozen=True)
class Level:
    """One value of the factor."""

    value: Any
    label: str


@dataclass(frozen=True)
class Claim:
    """A sentence of the article, and what would be seen if it held."""

    name: str
    text: str
    metric: str
    kind: str
    """One of KINDS."""
    levels: tuple[Any, ...]
    """The values of the factor that the claim speaks about; for "order", the level with the highest metric first."""
    at: tuple[float, float]
    """The part of the training whose mean counts, as shares of its steps: (0.8, 1.0) is the last fifth."""
    or_equal: tuple[bool, ...] = ()
    """For "order": for each level but the last, whether the claim says only that it is not lower than the next."""
    margin: float | None = None
    """A difference of the metric that counts as none; None: a twentieth of its size."""


@dataclass(frozen=True)
class Sweep:
    """One factor at a time around the baseline."""

    name: str
    title: str
    factor: str
    levels: tuple[Level, ...]
    seeds: tuple[int, ...]
    claims: tuple[Claim, ...]


def load_sweeps(names: Sequence[str], folder: Path = SWEEPS_DIR) -> list[Sweep]:
    """Return the named sweeps, each once; a file with `include` gives the sweeps that it names.

    UserError names every mistake in the files.
    """
    problems: list[str] = []
    found: dict[str, Sweep] = {}
    for name in names:
        for included in _included(name, folder, problems):
            if included not in found:
                sweep = _read(included, folder, problems)
                if sweep:
                    found[included] = sweep
    if not names:
        problems.append(f"sweeps must name files of sweeps/, but names none; take some of {', '.join(_known(folder))}")
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return list(found.values())


def _known(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _content(name: str, folder: Path, problems: list[str]) -> Mapping[str, Any]:
    import yaml

    known = _known(folder)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean {near[0]}?" if near else f"take some of {', '.join(known)}"
        problems.append(f"sweeps must name files of sweeps/, but there is no {name}.yaml; {do}")
        return {}
    try:
        content = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"sweeps/{name}.yaml must be YAML, but can't be read: {error}; mend it")
        return {}
    if not isinstance(content, dict) or set(content) - KEYS:
        extra = ", ".join(map(str, set(content) - KEYS)) if isinstance(content, dict) else "no mapping"
        problems.append(f"sweeps/{name}.yaml must have the keys {', '.join(sorted(KEYS))}, but has {extra}; drop it")
        return {}
    return content


def _included(name: str, folder: Path, problems: list[str]) -> list[str]:
    if name in _known(folder):
        content = _content(name, folder, [])
        if "include" in content:
            included = content["include"]
            if isinstance(included, list) and included and all(isinstance(one, str) for one in included):
                return included
            problems.append(
                f"sweeps/{name}.yaml must include a list of files of sweeps/, but includes {included!r}; "
                f"try [{', '.join(one for one in _known(folder) if one != name)}]"
            )
            return []
    return [name]


def _read(name: str, folder: Path, problems: list[str]) -> Sweep | None:
    content = _content(name, folder, problems)
    if not content:
        return None
    levels = content.get("levels") or []
    if not levels:
        problems.append(f"sweeps/{name}.yaml must have levels, but has none; list the factor's values under levels")
        return None
    try:
        return Sweep(
            name=name,
            title=str(content.get("title", name)),
            factor=str(content["factor"]),
            levels=tuple(Level(level["value"], str(level.get("label", level["value"]))) for level in levels),
            seeds=tuple(int(seed) for seed in content.get("seeds") or (1,)),
            claims=tuple(_claim(claim) for claim in content.get("claims") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(
            f"sweeps/{name}.yaml must look like the other files there, but reading it raised {error!r}; "
            "see experiments/config/sweep_files.py"
        )
        return None


def _claim(claim: Mapping[str, Any]) -> Claim:
    kinds = [kind for kind in KINDS if kind in claim]
    if len(kinds) != 1:
        raise ValueError(f"claim {claim.get('name')} must have one of {', '.join(KINDS)}")
    start, end = claim.get("at", (0.0, 1.0))
    if not 0 <= start < end <= 1:
        raise ValueError(f"claim {claim['name']}: `at` must be two rising shares of the steps, 0 to 1")
    name, text, metric = (str(claim[key]) for key in ("name", "text", "metric"))
    items = list(claim[kinds[0]])
    levels = tuple(item for item in items if item not in SIGNS)
    signs = [item for item in items if item in SIGNS]
    between = kinds[0] == "order" and items[1::2] == signs and len(signs) == len(levels) - 1
    if signs and not between:
        raise ValueError(f"claim {name}: > and >= must stand between the levels of an order, between all or none")
    or_equal = tuple(sign == ">=" for sign in signs)
    margin = claim.get("margin")
    if margin is not None and not (is_number(margin) and margin > 0):
        raise ValueError(f"claim {name}: `margin` must be a number above 0, but is {margin!r}")
    return Claim(name, text, metric, kinds[0], levels, (float(start), float(end)), or_equal, margin)
