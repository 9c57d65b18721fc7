"""The texts a run sampled: attempts/<k>/rollouts/<step>.jsonl and validation/<step>.jsonl of its folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.records.record import RunRecord

# The article's phrases: what a model says when it tries again, doubts, or is content. The legend keeps their order.
PHRASES = ("let's try", "how about", "does not equal", "this works", "not it", "wait")


Shares = dict[int, list[float]]
"""{step: for each phrase, the share of the step's responses that contain it}."""


@dataclass(frozen=True)
class Rollouts:
    """The sampled texts of a run, by step. If two attempts made a step, the texts are those of the later one."""

    files: dict[int, Path]
    """{step: file}, steps ascending."""

    def read(self, step: int, most: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the rollouts in the first `most` lines of a step's file, or in all; damaged lines are left out."""
        with open(self.files[step], encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines):
                if most is not None and number >= most:
                    return
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("output"), str):
                    yield {key: sound(value) if isinstance(value, str) else value for key, value in row.items()}

    def shares(self, phrases: Sequence[str], every: int = 1) -> Shares:
        """Return the phrases' shares in the first step and in every step that `every` divides; case does not matter."""
        wanted = [plain(phrase) for phrase in phrases]
        found: Shares = {}
        for number, step in enumerate(self.files):
            if number and step % every:
                continue
            texts = [plain(row["output"]) for row in self.read(step)]
            if texts:
                found[step] = [sum(phrase in text for text in texts) / len(texts) for phrase in wanted]
        return found


def sound(text: str) -> str:
    """Return a text with "?" for halves of a character (lone surrogates), which no file takes."""
    return text.encode("utf-8", "replace").decode()


def plain(text: str) -> str:
    """Return a text in lower case, with straight apostrophes in place of curly ones."""
    return text.lower().replace("\u2019", "'").replace("\u2018", "'")


def parse_phrases(text: str) -> Sequence[str]:
    """Return the phrases between the commas of `text`, PHRASES if there are none; `\\,` is a comma within a phrase."""
    parts = re.split(r"(?<!\\),", text)
    return [phrase for part in parts if (phrase := part.replace("\\,", ",").strip())] or PHRASES


def find_rollouts(run: RunRecord, kind: str = "rollouts") -> Rollouts:
    """Return a run's sampled texts of a `kind`, "rollouts" or "validation"; none if it was not read from its folder."""
    files: dict[int, Path] = {}
    attempts = sorted((run.folder / "attempts").glob("[0-9]*"), key=lambda path: int(path.name)) if run.folder else []
    for attempt in attempts:
        steps = {int(path.stem): path for path in (attempt / kind).glob("*.jsonl") if path.stem.isdecimal()}
        first = min(steps, default=0)
        files = {step: path for step, path in files.items() if step < first or not steps} | steps
    return Rollouts(dict(sorted(files.items())))
