"""The few curves that figures and tables show, found among the many metrics that a run logs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.records.history import Curve
from analysis.records.record import RunRecord
from experiments.values import as_float

VALIDATION = re.compile(r"val-core/(?P<source>.+)/(?P<score>acc|reward)/mean@(?P<n>\d+)")
# veRL 0.1 to 0.2, which TinyZero used, log the mean of the reward function's scores by this name.
EARLIER_VALIDATION = re.compile(r"val/(?P<score>test_score)/(?P<source>.+)")
# The reward of these data sources is 1 for a right answer, 0.1 for a wrong one in the right format, and 0 otherwise.
FORMAT_CREDIT = 0.1
FORMAT_CREDIT_SOURCES = ("countdown",)
TWINS = (("val-aux/", "reward"), ("val-aux/", "score"), ("val-core/", "reward"))
LOWEST_SCORE = "critic/score/min"
VALIDATION_CURVES = ("sampled", "greedy")
GREEDY = re.compile(r"[_/-]greedy$")
# format is logged by our trainer only; veRL's own trainer logs the mean reward and the length.
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
    """How many validation points are accuracies that were computed from a score with format credit."""
    scores_accuracy: bool = True
    """Whether the validation curves are accuracies; otherwise they are mean rewards, format credit included."""
    dropped: tuple[str, ...] = ()
    """Validation curves that are left out: they are mean rewards, and another one is an accuracy."""

    def __getitem__(self, name: str) -> Curve:
        return self.by_name.get(name, [])


def read_curves(record: RunRecord, more: Sequence[str] = ()) -> Curves:
    """Return the curves of a run, whatever its data source is called and however many samples validation takes.

    `more` are metrics to read by their own names; it may also name the usual curves, which are read anyway.
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

    If a reward function returns a plain number, veRL logs this number, the reward, as `acc` too. So a metric `acc` is
    no accuracy if it equals the reward at every point and the task's reward gives credit for the format.
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
    """Return the accuracy at the points where it follows from a mean score with format credit.

    score = accuracy + 0.1 (format - accuracy), where format is the share of responses in the right format. This share
    is known where validation recorded it. It is 1 where every training response of the step scored at least 0.1, in a
    run whose lowest score was 0.1 at some step; without such a step, wrong answers may score 0 whatever their format.
    Other points are left out. [] if the data source's score gives no format credit.
    """
    match = VALIDATION.fullmatch(metric) or EARLIER_VALIDATION.fullmatch(metric)
    if match is None or GREEDY.sub("", match["source"]) not in FORMAT_CREDIT_SOURCES:
        return []
    format_share = metric.replace("val-core/", "val-aux/").replace(f"/{match['score']}/", "/format/")
    shares = dict(record.history.curve(format_share)) if format_share != metric else {}
    lowest = dict(record.history.curve(LOWEST_SCORE))
    credited = any(abs(score - FORMAT_CREDIT) < 1e-6 for score in lowest.values())
    points = []
    last = record.history.last_step()
    for step, score in record.history.curve(metric):
        # TinyZero's last validation stands behind the last trained step.
        least = lowest.get(last if step == last + 1 else step, 0.0)
        share = shares.get(step, 1.0 if credited and least >= FORMAT_CREDIT - 1e-6 else None)
        if share is not None and 0 <= score <= 1:
            accuracy = (score - FORMAT_CREDIT * share) / (1 - FORMAT_CREDIT)
            points.append((step, max(0.0, accuracy)))
    return points


def first_curve(record: RunRecord, metrics: Sequence[str]) -> Curve:
    """Return the curve of the first of `metrics` that was recorded, [] if none was."""
    return next((curve for metric in metrics if (curve := record.history.curve(metric))), [])


def comparable_curves(records: Sequence[RunRecord], more: Sequence[str] = ()) -> tuple[dict[str, Curves], list[str]]:
    """Return ({run name: its curves}, remarks on curves that are not what the panels' titles say).

    A panel never mixes accuracies and mean rewards. If some runs logged validation accuracy and others only the mean
    reward, the validation of the others is left out.
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
    """Return {"sampled": metric, "greedy": metric}, each only if the run logged it.

    A data source whose name ends in _greedy was decoded greedily. If no source is called so, the config says how
    validation decodes. If there are several sources, the task's own is taken; of several scores, the accuracy; of
    several numbers of samples, the largest.
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


def data_sources(record: RunRecord) -> set[str]:
    """Return the data sources of the run's validation, as its metrics name them."""
    matches = [VALIDATION.fullmatch(m) or EARLIER_VALIDATION.fullmatch(m) for m in record.history.metrics()]
    return {GREEDY.sub("", match["source"]) for match in matches if match}


def with_task(record: RunRecord) -> RunRecord:
    """Return the record with its task's name, the data sources of its validation where its config has none."""
    if record.config.get("task.name") is not None or not (sources := data_sources(record)):
        return record
    return replace(record, config={**record.config, "task.name": "+".join(sorted(sources))})


def samples_in_validation(record: RunRecord) -> bool:
    """Return whether the config has validation sample; veRL's default is greedy decoding."""
    prefix = "actor_rollout_ref.rollout.val_kwargs."
    return bool(record.config.get(f"{prefix}do_sample", False)) and bool(record.config.get(f"{prefix}temperature", 0))


def validation_temperature(record: RunRecord) -> float | None:
    """Return the temperature at which validation samples, None if it decodes greedily or the config does not say."""
    temperature = record.config.get("actor_rollout_ref.rollout.val_kwargs.temperature")
    return as_float(temperature) if samples_in_validation(record) else None


def seconds_per_step(record: RunRecord) -> float | None:
    """Return the median of the steps' seconds, None if no step's seconds were recorded."""
    seconds = [value for _, value in first_curve(record, TIMES)]
    return statistics.median(seconds) if seconds else None
