"""How many of a run's answers to each problem were right: what pass@k is made of, from wherever a run recorded it.

Three places have it: the validation's dumps in the run's folder, what `python -m experiments.runs evaluate` sampled
there, and, where there is no folder, the pass@k that the trainer logged for some k.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.records.curves import GREEDY, validation_metrics
from analysis.records.record import RunRecord
from analysis.records.rollouts import find_rollouts
from experiments.store.files import read_jsonl
from experiments.values import is_whole

LOGGED = re.compile(r"val-aux/(?P<source>.+)/acc/pass@(?P<k>\d+)")
MOST_STEPS = 60  # of a run that are read: a panel three inches wide shows no more
Counts = Mapping[str, tuple[int, int]]
"""{problem: (its answers, how many of them are right)}."""


@dataclass(frozen=True)
class Passes:
    """What a run recorded, by step; 0 is the base model."""

    validated: dict[int, Counts] = field(default_factory=dict)
    """From the validation's dumps, sampled answers only."""
    evaluated: dict[int, Counts] = field(default_factory=dict)
    """From the evaluation with the most answers to each validation problem."""
    logged: dict[int, dict[int, float]] = field(default_factory=dict)
    """{step: {k: pass@k}} as the trainer logged it."""

    @property
    def by_step(self) -> dict[int, Counts]:
        """Of each step that has any, the counts with the most answers."""
        return {**self.validated, **self.evaluated}


def read_passes(run: RunRecord) -> Passes:
    """Return what a run recorded, of at most MOST_STEPS of its validations and the last one."""
    kept = find_rollouts(run, "validation")
    steps = list(kept.files)
    steps = sorted({*steps[:: max(1, math.ceil(len(steps) / MOST_STEPS))], *steps[-1:]})
    validated = {step: counts for step in steps if (counts := count(kept.read(step)))}
    return Passes(validated, _evaluated(run.folder) if run.folder else {}, _logged(run))


def count(rows: Iterable[Mapping[str, Any]]) -> Counts:
    """Return how many sampled answers to each problem there are and are right; {} if one is right in part.

    A problem with fewer answers than most is one whose sampling failed: what it lacks counts as wrong, as the trainer
    counts it.
    """
    found: dict[str, list[bool]] = {}
    for row in rows:
        source, accuracy = row.get("data_source"), row.get("acc")
        if isinstance(source, str) and GREEDY.search(source):
            continue
        if accuracy not in (0, 1):
            return {}
        key = json.dumps([row.get("input"), row.get("gts")], sort_keys=True, default=str)
        short = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()  # prompts are long, and there are many
        found.setdefault(short, []).append(bool(accuracy))
    usual = statistics.mode(map(len, found.values())) if found else 0
    return {key: (max(len(right), usual), sum(right)) for key, right in found.items()}


def _evaluated(folder: Path) -> dict[int, Counts]:
    """Return {step: counts} of the finished evaluations on the validation problems; of several, the largest."""
    found: dict[int, Counts] = {}
    for path in sorted((folder / "evaluations").glob("step_*-validation-*")):
        try:
            settings, summary = (json.loads((path / name).read_bytes()) for name in ("settings.json", "summary.json"))
            step, samples = settings["step"], summary["samples"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not finished, or damaged
        rows = [row for row in read_jsonl(path / "answers.jsonl")[0] if is_whole(row.get("sample"), 0)]
        distinct = {(row.get("problem"), row["sample"]): row for row in rows if row["sample"] < samples}
        counts = count(distinct.values())
        if counts and is_whole(step, 0) and samples > max((n for n, _ in found.get(step, {}).values()), default=0):
            found[step] = counts
    return found


def _logged(run: RunRecord) -> dict[int, dict[int, float]]:
    """Return the pass@k that the trainer logged for sampled answers; pass@1 is the mean accuracy."""
    found: dict[int, dict[int, float]] = {}
    for metric in run.history.metrics():
        match = LOGGED.fullmatch(metric)
        if match and not GREEDY.search(match["source"]):
            for step, value in run.history.curve(metric):
                found.setdefault(step, {})[int(match["k"])] = value
    sampled = validation_metrics(run).get("sampled")
    for step, value in run.history.curve(sampled) if sampled and "/acc/" in sampled else ():
        if step in found:
            found[step][1] = value
    return found
