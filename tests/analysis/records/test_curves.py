"""Finding the curves among the metrics a run logs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.design.arms import Arm
from analysis.figures.main import Panel
from analysis.figures.series import View, arm_series
from analysis.figures.smoothing import Smoothing
from analysis.records.curves import comparable_curves, read_curves, validation_metrics
from analysis.records.history import Curve, History
from analysis.records.record import RunRecord

SAMPLES: dict[str, Any] = {
    "actor_rollout_ref.rollout.val_kwargs.do_sample": True,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 1.0,
}


def record(*metrics: str, name: str = "run", **config: Any) -> RunRecord:
    history = History.of({10: dict.fromkeys(metrics, 0.5)})
    return RunRecord(name, {"task.name": "countdown", **config}, history, "finished", 1, 10)


def test_the_pair_of_sources_tells_sampled_from_greedy_whatever_their_name_and_n() -> None:
    found = validation_metrics(
        record(
            "val-core/hub/org/countdown/acc/mean@4",
            "val-core/hub/org/countdown/acc/mean@16",
            "val-core/hub/org/countdown/acc/best@16/mean",
            "val-core/hub/org/countdown_greedy/acc/mean@1",
            "val-aux/hub/org/countdown/reward/mean@16",
        )
    )
    assert found == {
        "sampled": "val-core/hub/org/countdown/acc/mean@16",
        "greedy": "val-core/hub/org/countdown_greedy/acc/mean@1",
    }


def test_without_a_pair_the_config_says_how_validation_decodes() -> None:
    metric = "val-core/countdown/acc/mean@1"
    assert validation_metrics(record(metric)) == {"greedy": metric}
    assert validation_metrics(record(metric, **SAMPLES)) == {"sampled": metric}
    assert validation_metrics(record("critic/score/mean")) == {}


def test_of_several_sources_the_tasks_own_is_taken() -> None:
    found = validation_metrics(record("val-core/aime/acc/mean@1", "val-core/countdown/acc/mean@1"))
    assert found == {"greedy": "val-core/countdown/acc/mean@1"}


def test_accuracy_and_mean_reward_never_share_a_panel() -> None:
    accurate = record("val-core/countdown/acc/mean@1", name="a")
    rewarded = record("val-core/countdown/reward/mean@1", "critic/score/mean", name="b")
    curves, (remark,) = comparable_curves([accurate, rewarded])
    assert curves["a"]["greedy"] == [(10, 0.5)]
    assert curves["b"]["greedy"] == []
    assert curves["b"]["reward"] == [(10, 0.5)]
    assert remark.startswith("no validation is drawn of b")
    curves, (remark,) = comparable_curves([rewarded])
    assert curves["b"]["greedy"] == [(10, 0.5)]
    assert "mean reward" in remark


def test_what_verl_calls_acc_is_a_reward_where_the_reward_function_returns_a_plain_number() -> None:
    """Such a function's score is logged as acc and as reward: 0.46 may be 0.4 right and 0.6 in the right format."""
    metric, twin = "val-core/countdown/acc/mean@1", "val-aux/countdown/reward/mean@1"

    def logged(**lowest: float) -> RunRecord:
        row = {metric: 0.46, twin: 0.46, "val-core/countdown_greedy/acc/mean@1": 0.3, **lowest}
        return RunRecord("run", {"task.name": "countdown"}, History.of({10: row}), "finished", 1, 10)

    raw = read_curves(logged())
    assert raw["sampled"] == [] and raw["greedy"] == [(10, 0.3)], "an accuracy and a reward never share a title"
    assert comparable_curves([logged()])[1] == ["no sampled validation is drawn of run: recorded as a mean reward"]
    derived = read_curves(logged(**{"critic/score/min": 0.1}))
    assert derived["sampled"] == [(10, pytest.approx(0.4))] and derived.scores_accuracy and derived.derived == 1
    alone = RunRecord("run", {}, History.of({10: {metric: 0.46, twin: 0.46}}), "finished", 1, 10)
    assert read_curves(alone)["greedy"] == [(10, 0.46)] and not read_curves(alone).scores_accuracy
    other = {"val-core/gsm8k/acc/mean@1": 0.46, "val-aux/gsm8k/reward/mean@1": 0.46}
    assert read_curves(RunRecord("run", {}, History.of({10: other}), "finished", 1, 10)).scores_accuracy


def test_of_two_scores_neither_stays_raw_under_the_title_accuracy() -> None:
    metrics = {"val/test_score/countdown": 0.46, "val/test_score/countdown_greedy": 0.55}
    rows = {5: {"val/test_score/countdown": 0.4, "critic/score/min": 0.1}, 10: {**metrics, "critic/score/min": 0.0}}
    curves = read_curves(RunRecord("run", {}, History.of(rows), "finished", 1, 10))
    assert curves.scores_accuracy and curves["greedy"] == [] and curves.dropped == ("greedy",)
    assert curves["sampled"] == [(5, pytest.approx((0.4 - 0.1) / 0.9))]


def test_what_was_not_recorded_is_empty() -> None:
    curves = read_curves(record("response_length/mean"))
    assert curves["length"] == [(10, 0.5)]
    assert [curves[name] for name in ("sampled", "greedy", "reward", "format")] == [[], [], [], []]


def test_validation_is_never_smoothed_and_bears_markers_whatever_it_is_called() -> None:
    view = View(smoothing=Smoothing(0.9))
    for name in ("sampled", "greedy", "val/test_score/countdown", "val-core/a/b/acc/mean@4", "val-aux/a/format/mean@1"):
        assert not view.smooths(name) and Panel(name, "").is_validation, name
    assert view.smooths("reward") and view.smooths("actor/entropy") and not Panel("actor/entropy", "").is_validation


def mean_curve(seeds: list[Curve]) -> Curve:
    """Return the mean that is drawn of an arm with these curves."""
    runs = [
        RunRecord(f"run{place}", {}, History.of({s: {"m": y} for s, y in seed}), "finished", 1, 10)
        for place, seed in enumerate(seeds)
    ]
    series = arm_series(Arm("arm", tuple(runs)), "m", {run.name: read_curves(run, ["m"]) for run in runs}, View())
    assert len(series.low) == len(series.high) == len(series.mean.ys)
    return list(zip(series.mean.steps, series.mean.ys, strict=True))


def test_the_mean_goes_on_with_the_seeds_that_there_are() -> None:
    assert mean_curve([[(0, 1.0), (10, 2.0), (20, 3.0)], [(0, 3.0), (10, 4.0)], []]) == [(0, 2.0), (10, 3.0), (20, 3.0)]
    # One seed alone was validated at 5, where it was resumed: the mean has no jump there.
    assert mean_curve([[(0, 1.0), (10, 2.0)], [(0, 3.0), (5, 9.0), (10, 4.0)]]) == [(0, 2.0), (10, 3.0)]
    assert mean_curve([[(0, 1.0)], []]) == []


curves_of_seeds = st.lists(
    st.dictionaries(st.integers(0, 20), st.floats(-10, 10), max_size=12).map(lambda points: sorted(points.items())),
    max_size=5,
)


@given(curves_of_seeds)
def test_the_mean_lies_between_the_seeds_that_have_a_step(seeds: list[Curve]) -> None:
    for step, value in mean_curve(seeds):
        at_step = [dict(seed)[step] for seed in seeds if step in dict(seed)]
        assert min(at_step) - 1e-9 <= value <= max(at_step) + 1e-9
