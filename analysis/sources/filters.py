"""Which of a source's runs are meant: by conditions on their settings, and by names or their beginnings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from analysis.records.knobs import ALGORITHM, ALGORITHMS, find_key
from analysis.records.record import RunRecord
from experiments.errors import UserError
from experiments.store.selection import Condition, matching, nearest, parse_condition

WANDB = "wandb://"
FIELDS = ("state", "tags", "group", "name")  # keys of a condition that are not keys of the config


class Source(Protocol):
    """A place that runs are read from; the same run reads the same from each."""

    def read(self) -> tuple[list[RunRecord], list[str]]:
        """Return (the runs by name, one warning for each thing that could not be read as it should).

        Raises UserError if there is no run at all.
        """
        ...


def parse_filters(texts: Sequence[str], option: str = "--filter") -> tuple[Condition, ...]:
    """Return the conditions that an option was given; UserError naming every text that is none."""
    parsed = [(text, parse_condition(text)) for text in texts]
    malformed = [text for text, condition in parsed if condition is None]
    if malformed:
        form = f"{option} must be key=value or key!=value"
        raise UserError(*(f"{form}, but is {text!r}; e.g. rollout.temperature=0.6" for text in malformed))
    return tuple(condition for _, condition in parsed if condition is not None)


def values_under(record: RunRecord, key: str) -> Sequence[Any]:
    """Return what a run has under the key of a condition: all its tags, or one value; None for a key it lacks.

    The key may be written as tables write it, and so may the name of an algorithm.
    """
    if key == "tags":
        return record.tags
    if key in FIELDS:
        return (getattr(record, key),)
    key = find_key(key, record.config)
    value = record.config.get(key)
    shown = ALGORITHMS.get(str(value)) if key == ALGORITHM else None
    return (value,) if shown is None else (value, shown, shown.lower())


def select(records: Sequence[RunRecord], wanted: Sequence[str], filters: Sequence[Condition]) -> list[RunRecord]:
    """Return the records that were asked for; UserError if that leaves nothing."""
    if wanted:
        names = [record.name for record in records]
        chosen = {find_name(names, name) for name in wanted}
        records = [record for record in records if record.name in chosen]
    kept = [record for record in records if all(f.accepts(values_under(record, f.key)) for f in filters)]
    if not kept:
        asked, hint = " ".join(map(str, filters)), known_values(records, filters)
        raise UserError(f"a run must satisfy {asked}, but none of {len(records)} does; {hint}")
    return kept


def known_values(records: Sequence[RunRecord], filters: Sequence[Condition]) -> str:
    """Return what the runs do have under the first condition that no run satisfies."""
    for condition in filters:
        key = condition.key
        if any(condition.accepts(values_under(record, key)) for record in records):
            continue
        known = {name for record in records for name in record.config} | set(FIELDS)
        if find_key(key, known) not in known:
            return f"no run has a {key!r}; nearest: {', '.join(nearest(key, known, alike=0.4)) or 'none'}"
        found = {str(value) for record in records for value in values_under(record, key)}
        return f"{key} is {', '.join(sorted(found)[:8])}"
    return "each filter alone leaves some run, but no run satisfies all of them; drop one"


def find_name(names: Collection[str], wanted: str, place: str = "") -> str:
    """Return the name of the run whose name or id `wanted` is or begins; UserError if there is none or several.

    `place`: where the runs are, for the message, e.g. " in /home/me/runs".
    """
    matches = matching(wanted, names)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(f"RUN must name one run, but {wanted!r} names {len(matches)}: {', '.join(matches)}")
    near = ", ".join(nearest(wanted, names))
    raise UserError(f"no run{place} begins with {wanted!r}, nor does its id; nearest: {near}")
