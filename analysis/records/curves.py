"""The few curves the figures and tables show, found among the many metrics a run logs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.records.history import Curve
from analysis.records.record import RunRecord

VALIDATION = re.compile(r"val-core/(?P<source>.+)/(?P<score>acc|reward)/mean@(?P<n>\d+)")
# veRL 0.1 to 0.2, TinyZero's: the mean of the reward function's scores.
EARLIER_VALIDATION = re.compile(r"val/(?P<score>test_score)/(?P<source>.+)")
# A reward of 1 for a right answer, 0.1 for a wrong one in the right format, 0 else.
FORMAT_CREDIT = 0.1
FORMAT_CREDIT_SOURCES = ("countdown",)
TWINS = (("val-aux/", "reward"), ("val-aux/", "score"), ("val-core/", "reward"))
LOWEST_SCORE = "critic/score/min"
VALIDATION_CURVES = ("sampled", "greedy")
GREEDY = re.compile(r"[_/-]greedy$")
# Without ours, veRL's own trainer logs the reward's mean alone.
TRAINING = {
    "reward": "critic/score/mean",
    "length": "response_length/mean",
    "format": "reward/format/mean",
}
TIMES = ("perf/time_per_step", "timing_s/step", "timing/step")  # seconds, in later and earlier veRL


@dataclass(frozen=True)
class Curves:
    """The curves of one run."""

    by_name: Mapping[str, Curve]
    """sampled, greedy (validation), reward, length, format (training): [(step, value)], empty where not recorded."""
    metrics: Mapping[str, str]
    """Which metric each curve is."""
    derived: int = 0
    """How many validation points are accuracies computed from a score with format credit."""
    scores_accuracy: bool = True
    """Whether the validation curves are accuracies; otherwise they are mean rewards, format credit included."""
    dropped: tuple[str, ...] = ()
    """Validation curves left out: mean rewards beside one that is an accuracy."""

    def __getitem__(self, name: str) -> Curve:
        return self.by_name.get(name, [])


def read_curves(record: RunRecord, more: Sequence[str] = ()) -> Curves:
    """Return the curves of a run, whatever its data source is called and however many samples validation takes.

    `more` are metrics to read by their own names; names of curves among them change nothing.
    """
    validation = validation_metrics(record)
    metrics = {**TRAINING, **validation}
    metrics |= {metric: metric for metric in more if metric not in (*TRAINING, "sampled", "greedy")}
    curves = {name: record.history.curve(metric) for name, metric in metrics.items()}
    scores = [name for name, metric in validation.items() if is_score(record, metric)]
    accuracies = {name: points for name in scores if (points := accuracy_from_score(record, validation[name]))}
    curves |= accuracies
    scores_accuracy = not scores or len(scores) < len(validation) or bool(accuracies)
    dropped = tuple(name for name in scores if name not in accuracies) if scores_accuracy else ()
    for name in dropped:
        del curves[name], metrics[name]
    return Curves(curves, metrics, sum(map(len, accuracies.values())), scores_accuracy, dropped)


def is_score(record: RunRecord, metric: str) -> bool:
    """Return whether a validation metric is the mean of the reward function's scores, whatever it is called.

    Of a reward function that returns a plain number veRL logs that number as `acc`, too: where it is the reward at
    every point, and the task's reward gives credit for the format, it is no accuracy.
    """
    match = VALIDATION.fullmatch(metric)
    if match is None or match["score"] != "acc":
        return True
    if GREEDY.sub("", match["source"]) not in FORMAT_CREDIT_SOURCES:
        return False
    curve = record.history.curve(metric)
    twins = [metric.replace("val-core/", place).replace("/acc/", f"/{score}/") for place, score in TWINS]
    return any(record.history.curve(twin) == curve for twin in twins)


def accuracy_from_score(record: RunRecord, metric: str) -> Curve:
    """Return the accuracy that a mean score with format credit tells, where it tells it.

    score = accuracy + 0.1 (format - accuracy). That needs the share of responses in the right format: as validation
    recorded it, or 1 where every training response of the step scored at least 0.1, in a run whose worst response did
    score 0.1 (else wrong answers may score 0). Other points are left out; [] if the score is not of this kind.
    """
    match = VALIDATION.fullmatch(metric) or EARLIER_VALIDATION.fullmatch(metric)
    if match is None or GREEDY.sub("", match["source"]) not in FORMAT_CREDIT_SOURCES:
        return []
    format_share = metric.replace("val-core/", "val-aux/").replace(f"/{match['score']}/", "/format/")
    shares = dict(record.history.curve(format_share)) if format_share != metric else {}
    lowest = dict(record.history.curve(LOWEST_SCORE))
    credited = any(abs(score - FORMAT_CREDIT) < 1e-6 for score in lowest.values())
    points = []
    for step, score in record.history.curve(metric):
        share = shares.get(step, 1.0 if credited and lowest.get(step, 0.0) >= FORMAT_CREDIT - 1e-6 else None)
        if share is not None and 0 <= score <= 1:
            accuracy = (score - FORMAT_CREDIT * share) / (1 - FORMAT_CREDIT)
            points.append((step, max(0.0, accuracy)))
    return points


def first_curve(record: RunRecord, metrics: Sequence[str]) -> Curve:
    """Return the curve of the first of `metrics` that was recorded, [] without any."""
    return next((curve for metric in metrics if (curve := record.history.curve(metric))), [])


def comparable_curves(records: Sequence[RunRecord], more: Sequence[str] = ()) -> tuple[dict[str, Curves], list[str]]:
    """Return ({run name: its curves}, remarks on what is not what the panels' titles say).

    Where some runs log validation accuracy and others only the mean reward, the latter's validation is left out: one
    panel never mixes the two.
    """
    curves = {record.name: read_curves(record, more) for record in records}
    rewards = [name for name, run in curves.items() if not run.scores_accuracy]
    remarks = []
    derived = [name for name, run in curves.items() if run.derived]
    if derived:
        remarks.append(
            f"accuracy of {', '.join(derived)} computed from a score with 0.1 format credit, where the format is known"
        )
    for name, run in curves.items():
        if run.dropped:
            remarks.append(f"no {' and '.join(run.dropped)} validation is drawn of {name}: recorded as a mean reward")
    if rewards and len(rewards) == len(curves):
        remarks.append("validation shows the mean reward: no accuracy was recorded")
    elif rewards:
        remarks.append(f"no validation is drawn of {', '.join(rewards)}: recorded as a mean reward, not as accuracy")
        for name in rewards:
            kept = {
                panel: metric for panel, metric in curves[name].metrics.items() if panel not in ("sampled", "greedy")
            }
            curves[name] = Curves({panel: curves[name][panel] for panel in kept}, kept, dropped=VALIDATION_CURVES)
    return curves, remarks


def validation_metrics(record: RunRecord) -> dict[str, str]:
    """Return {"sampled": metric, "greedy": metric}, each only if there is one.

    A data source whose name ends in _greedy is the greedy one. Without such a pair, the config says how validation
    decodes. Of several sources the task's own is taken, of several scores accuracy, of several N the largest.
    """
    found: dict[str, list[tuple[bool, bool, str, int, str]]] = {}
    metrics = sorted(record.history.metrics())
    matches = [match for metric in metrics if (match := VALIDATION.fullmatch(metric))]
    matches = matches or [match for metric in metrics if (match := EARLIER_VALIDATION.fullmatch(metric))]
    paired = any(GREEDY.search(match["source"]) for match in matches)
    task = str(record.config.get("task.name"))

    def samples(match: re.Match[str]) -> int:
        return int(match.groupdict().get("n") or 1)

    for match in matches:
        greedy = bool(GREEDY.search(match["source"])) if paired else not samples_in_validation(record)
        rank = (GREEDY.sub("", match["source"]) != task, match["score"] != "acc", match["source"], -samples(match))
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
    seconds = [value for _, value in first_curve(record, TIMES)]
    return statistics.median(seconds) if seconds else None
