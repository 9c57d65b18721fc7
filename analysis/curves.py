"""The few curves the figures and tables show, found among the many metrics a run logs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.history import Curve
from analysis.records import RunRecord

VALIDATION = re.compile(r"val-core/(?P<source>.+)/(?P<score>acc|reward)/mean@(?P<n>\d+)")
GREEDY = re.compile(r"[_/-]greedy$")
# Without ours, veRL's own trainer logs the reward's mean alone.
TRAINING = {
    "reward": "critic/score/mean",
    "length": "response_length/mean",
    "format": "reward/format/mean",
}
SECONDS = "perf/time_per_step"


@dataclass(frozen=True)
class Curves:
    """The curves of one run."""

    by_name: Mapping[str, Curve]
    """sampled, greedy (validation), reward, length, format (training): [(step, value)], empty where not recorded."""
    metrics: Mapping[str, str]
    """Which metric each curve is."""

    def __getitem__(self, name: str) -> Curve:
        return self.by_name.get(name, [])

    @property
    def scores_accuracy(self) -> bool:
        """Whether the validation curves are accuracies; otherwise they are mean rewards, format credit included."""
        return not any("/reward/" in self.metrics.get(name, "") for name in ("sampled", "greedy"))


def read_curves(record: RunRecord) -> Curves:
    """Return the curves of a run, whatever its data source is called and however many samples validation takes."""
    metrics = {**TRAINING, **validation_metrics(record)}
    return Curves({name: record.history.curve(metric) for name, metric in metrics.items()}, metrics)


def comparable_curves(records: Sequence[RunRecord]) -> tuple[dict[str, Curves], list[str]]:
    """Return ({run name: its curves}, remarks on what is not what the panels' titles say).

    Where some runs log validation accuracy and others only the mean reward, the latter's validation is left out: one
    panel never mixes the two.
    """
    curves = {record.name: read_curves(record) for record in records}
    rewards = [name for name, run in curves.items() if not run.scores_accuracy]
    remarks = []
    if rewards and len(rewards) == len(curves):
        remarks.append("validation shows the mean reward: no accuracy was recorded")
    elif rewards:
        remarks.append(f"no validation is drawn of {', '.join(rewards)}: recorded as a mean reward, not as accuracy")
        for name in rewards:
            kept = {panel: metric for panel, metric in curves[name].metrics.items() if panel in TRAINING}
            curves[name] = Curves({panel: curves[name][panel] for panel in kept}, kept)
    return curves, remarks


def validation_metrics(record: RunRecord) -> dict[str, str]:
    """Return {"sampled": metric, "greedy": metric}, each only if there is one.

    A data source whose name ends in _greedy is the greedy one. Without such a pair, the config says how validation
    decodes. Of several sources the task's own is taken, of several scores accuracy, of several N the largest.
    """
    found: dict[str, list[tuple[bool, bool, str, int, str]]] = {}
    matches = [match for metric in sorted(record.history.metrics()) if (match := VALIDATION.fullmatch(metric))]
    paired = any(GREEDY.search(match["source"]) for match in matches)
    task = str(record.config.get("task.name"))
    for match in matches:
        greedy = bool(GREEDY.search(match["source"])) if paired else not samples_in_validation(record)
        rank = (GREEDY.sub("", match["source"]) != task, match["score"] != "acc", match["source"], -int(match["n"]))
        found.setdefault("greedy" if greedy else "sampled", []).append((*rank, match[0]))
    return {name: min(candidates)[-1] for name, candidates in found.items()}


def samples_in_validation(record: RunRecord) -> bool:
    """Return whether validation samples; veRL's default is greedy."""
    prefix = "actor_rollout_ref.rollout.val_kwargs."
    return bool(record.config.get(f"{prefix}do_sample", False)) and bool(record.config.get(f"{prefix}temperature", 0))


def validation_temperature(record: RunRecord) -> float | None:
    """Return the temperature at which validation samples, None if it does not or does not say."""
    temperature = record.config.get("actor_rollout_ref.rollout.val_kwargs.temperature")
    return float(temperature) if samples_in_validation(record) and isinstance(temperature, int | float) else None


def seconds_per_step(record: RunRecord) -> float | None:
    """Return the median of the steps' seconds, None if none is recorded."""
    seconds = [value for _, value in record.history.curve(SECONDS)]
    return statistics.median(seconds) if seconds else None


def mean_curve(curves: list[Curve]) -> Curve:
    """Return the mean over seeds at the steps that every seed has; [] for fewer than two seeds with data.

    Beyond the shortest seed there is no mean: it would jump as seeds drop out.
    """
    seeds = [dict(curve) for curve in curves if curve]
    if len(seeds) < 2:
        return []
    common = sorted(set.intersection(*(set(seed) for seed in seeds)))
    return [(step, statistics.fmean(seed[step] for seed in seeds)) for step in common]
