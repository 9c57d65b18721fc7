"""The texts a run sampled: attempts/<k>/rollouts/<step>.jsonl and validation/<step>.jsonl of its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records.record import RunRecord

# The article's: what a model says when it tries again, doubts, or is content. In order of the legend.
PHRASES = ("let's try", "how about", "does not equal", "this works", "not it", "wait")


Shares = dict[int, list[float]]
"""{step: the share of its responses that hold each phrase}."""


@dataclass(frozen=True)
class Rollouts:
    """The dumps of one kind of a run, those of its final history alone: a later attempt's step wins."""

    files: dict[int, Path]
    """{step: file}, steps ascending."""

    def read(self, step: int, most: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rollouts of a step, at most `most`; damaged lines are passed over."""
        with open(self.files[step], encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                if most is not None and number >= most:
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("output"), str):
                    yield row

    def shares(self, phrases: Sequence[str], every: int = 1) -> Shares:
        """Return the phrases' shares, whatever their case, in the first step and those that `every` divides."""
        wanted = [plain(phrase) for phrase in phrases]
        found: Shares = {}
        for number, step in enumerate(self.files):
            if number and step % every:
                continue
            texts = [plain(row["output"]) for row in self.read(step)]
            if texts:
                found[step] = [sum(phrase in text for text in texts) / len(texts) for phrase in wanted]
        return found


def plain(text: str) -> str:
    """Return a text in lower case, with the apostrophes of a typewriter."""
    return text.lower().replace("\u2019", "'").replace("\u2018", "'")


def parse_phrases(text: str) -> Sequence[str]:
    """Return the phrases between the commas of `text`, PHRASES without any; a backslash before a comma keeps it."""
    parts = re.split(r"(?<!\\),", text)
    return [phrase for part in parts if (phrase := part.replace("\\,", ",").strip())] or PHRASES


def find_rollouts(run: RunRecord, kind: str = "rollouts") -> Rollouts:
    """Return a run's dumps ("rollouts" or "validation"); none for a run that was not read from its folder."""
    files: dict[int, Path] = {}
    attempts = sorted((run.folder / "attempts").glob("[0-9]*"), key=lambda path: int(path.name)) if run.folder else []
    for attempt in attempts:
        steps = {int(path.stem): path for path in (attempt / kind).glob("*.jsonl") if path.stem.isdecimal()}
        first = min(steps, default=0)
        files = {step: path for step, path in files.items() if step < first or not steps} | steps
    return Rollouts(dict(sorted(files.items())))
