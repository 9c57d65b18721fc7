"""Which runs are meant: `key=value` conditions, and names or their beginnings."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from analysis.records.record import RunRecord
from experiments.errors import UserError

WANDB = "wandb://"


class Source(Protocol):
    """A place that runs are read from; the same run reads the same from each."""

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs by name, one warning for each thing that could not be read as it should).

        Raises UserError if there is no run at all.
        """
        ...


@dataclass(frozen=True)
class Filter:
    """A condition on runs: `key=value` or `key!=value`; key is state, tags, group, name or a config key."""

    key: str
    value: str
    equal: bool = True

    def accepts(self, record: RunRecord) -> bool:
        """Return whether the run satisfies it. Texts may hold * and ?; numbers are compared as numbers."""
        values: Sequence[Any]
        if self.key == "tags":
            values = record.tags
        elif self.key in ("state", "group", "name"):
            values = (getattr(record, self.key),)
        else:
            values = (record.config.get(self.key),)
        return any(same(value, self.value) for value in values) is self.equal


def same(value: Any, text: str) -> bool:
    """Return whether a config value is what a user spelt as `text`."""
    if isinstance(value, bool) or value is None:
        return text.lower() in ({"none", "null"} if value is None else {str(value).lower()})
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return fnmatch.fnmatchcase(str(value), text)


def parse_filters(texts: Sequence[str]) -> tuple[Filter, ...]:
    """Return the filters; UserError naming every text that is none."""
    filters, problems = [], []
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip("! "):
            problems.append(f"--filter must be key=value or key!=value, but is {text!r}; e.g. rollout.temperature=0.6")
            continue
        filters.append(Filter(key.removesuffix("!").strip(), value.strip(), not key.endswith("!")))
    if problems:
        raise UserError(*problems)
    return tuple(filters)


def select(records: Sequence[RunRecord], wanted: Sequence[str], filters: Sequence[Filter]) -> list[RunRecord]:
    """Return the records that were asked for; UserError if that leaves nothing."""
    if wanted:
        chosen = [find(records, name) for name in wanted]
        records = [record for record in records if record in chosen]
    kept = [record for record in records if all(condition.accepts(record) for condition in filters)]
    if not kept:
        asked = " ".join(f"{f.key}{'=' if f.equal else '!='}{f.value}" for f in filters)
        raise UserError(f"a run must satisfy {asked}, but none of {len(records)} does; {nearest(records, filters)}")
    return kept


def nearest(records: Sequence[RunRecord], filters: Sequence[Filter]) -> str:
    """Return what the runs do have under the first filter that no run satisfies."""
    for condition in filters:
        if any(condition.accepts(record) for record in records):
            continue
        known = {key for record in records for key in record.config} | {"state", "tags", "group", "name"}
        if condition.key not in known:
            near = difflib.get_close_matches(condition.key, known, n=3, cutoff=0.4)
            return f"no run has a {condition.key!r}; nearest: {', '.join(near) or 'none'}"
        if condition.key == "tags":
            found = {tag for record in records for tag in record.tags}
        elif condition.key in ("state", "group", "name"):
            found = {str(getattr(record, condition.key)) for record in records}
        else:
            found = {str(record.config.get(condition.key)) for record in records}
        return f"{condition.key} is {', '.join(sorted(found)[:8])}"
    return "ask for less at once"


def find(records: Sequence[RunRecord], wanted: str) -> RunRecord:
    """Return the run whose name or id `wanted` is or begins; UserError if there is none or several."""
    matches = [r for r in records if r.name == wanted] or [
        r for r in records if r.name.startswith(wanted) or r.name.rpartition("-")[2].startswith(wanted)
    ]
    if len(matches) == 1:
        return matches[0]
    names = [record.name for record in matches or records]
    if matches:
        raise UserError(f"RUN must name one run, but {wanted!r} names {len(names)}: {', '.join(names)}")
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.0)
    raise UserError(f"no run begins with {wanted!r}, nor does its id; nearest: {', '.join(near)}")
