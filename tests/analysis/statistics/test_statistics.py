"""Intervals, smoothing and axes: against scipy, formulas and hand-made numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.figures.smoothing import Smoothing, parse_smoothing
from analysis.records.axes import AXES, find_axis
from analysis.records.curves import comparable_curves, read_curves
from analysis.records.history import join
from analysis.records.record import RunRecord
from analysis.sources.run_folders import RunFolders
from analysis.statistics.intervals import band, difference_interval, mean_interval
from experiments.errors import UserError

MakeRun = Callable[..., Path]
values = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=9)


def record(rows: dict[int, dict[str, float]], **config: Any) -> RunRecord:
    return RunRecord("run", config, join([list(rows.items())]), "finished", 1, None)


@given(values)
def test_the_interval_of_a_mean_is_students(sample: list[float]) -> None:
    ours = mean_interval(sample)
    assert ours is not None
    low, high = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample) or 1e-300)
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@given(values, values)
def test_the_interval_of_a_difference_is_welchs(ones: list[float], others: list[float]) -> None:
    ours = difference_interval(ones, others)
    assert ours is not None and ours.value == pytest.approx(np.mean(ones) - np.mean(others), abs=1e-12)
    if min(np.std(ones), np.std(others)) > 1e-6:
        theirs = stats.ttest_ind(ones, others, equal_var=False).confidence_interval(0.95)
        assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=1e-6), pytest.approx(theirs.high, abs=1e-6))


def test_one_seed_has_no_interval() -> None:
    assert mean_interval([0.4]) is None and band([[0.4, 0.5]]) is None
    assert difference_interval([0.4], [0.1, 0.2]) is None


@pytest.mark.parametrize("seeds", [2, 3, 5, 6, 8])
def test_the_band_is_students_t_at_each_point_whatever_the_number_of_seeds(seeds: int) -> None:
    curves = np.random.default_rng(seeds).normal(size=(seeds, 40)).cumsum(axis=1)
    bounds = band(curves.tolist())
    low, high = stats.t.interval(0.95, seeds - 1, curves.mean(axis=0), stats.sem(curves))
    assert bounds is not None
    assert bounds[0] == pytest.approx(low.tolist()) and bounds[1] == pytest.approx(high.tolist())


def test_golden_intervals() -> None:
    """By hand: the quantiles of Student's t are 12.706 (1 degree of freedom), 4.3027 (2) and 2.7764 (4)."""
    for sample, reach in (
        ([0.0, 2.0], 12.7062),
        ([1.0, 2.0, 3.0], 4.30265 / 3**0.5),
        ([1, 2, 3, 4, 5], 2.776445 / 2**0.5),
    ):
        middle = sum(sample) / len(sample)
        assert band([[value] for value in sample]) == (
            [pytest.approx(middle - reach, rel=1e-5)],
            [pytest.approx(middle + reach, rel=1e-5)],
        )


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_the_band_holds_the_true_mean_95_times_in_100(seeds: int) -> None:
    simulations = 20_000  # each a point of the curves; the share's standard error is 0.0015
    curves = np.random.default_rng(seeds).normal(0.4, 0.03, size=(seeds, simulations))
    bounds = band(curves.tolist())
    assert bounds is not None
    held = np.mean((np.array(bounds[0]) <= 0.4) & (np.array(bounds[1]) >= 0.4))
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / simulations))


def test_golden_smoothing() -> None:
    xs, ys = [0.0, 1.0, 2.0, 3.0, 5.0], [0.0, 1.0, 2.0, 3.0, 5.0]
    # One step of five is 200 of the 1000 that the range spans; sqrt(0.99) ** 200 = 0.366
    decay = math.sqrt(0.99) ** 200
    expected = [0.0, 1 / (decay + 1), (2 + decay) / (decay**2 + decay + 1)]
    assert parse_smoothing("twema:0.99").apply(xs, ys)[:3] == pytest.approx(expected)
    for scale in (9000.0, 0.001):
        tokens = [x * scale for x in xs]
        assert parse_smoothing("twema:0.99").apply(tokens, ys)[:3] == pytest.approx(expected), (
            "as smooth against tokens or hours as against steps"
        )


@given(st.floats(0.01, 0.999), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_smoothing_stays_within_the_data_and_keeps_constants(weight: float, ys: list[float]) -> None:
    xs = [float(x) for x in range(len(ys))]
    smooth = Smoothing(weight).apply(xs, ys)
    assert len(smooth) == len(ys)
    assert min(ys) - 1e-6 <= min(smooth) and max(smooth) <= max(ys) + 1e-6
    assert Smoothing(weight).apply(xs, [3.0] * len(ys)) == pytest.approx([3.0] * len(ys))
    assert Smoothing().apply(xs, ys) == ys


@pytest.mark.parametrize("text", ["", "twema", "twema:0", "twema:1", "twema:x", "twema:nan", "twema:-1", "ema:0.6"])
def test_an_unknown_smoothing_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--smooth must be none, or twema:W"):
        parse_smoothing(text)


def test_axes_count_what_training_cost(make: MakeRun, runs: Path) -> None:
    make(name="straight-1")
    make(name="resumed-2", legs=((1, 37), (31, 44), (41, 60)))
    resumed, straight = RunFolders(runs).read()[0]
    for axis in AXES.values():
        assert axis.places(resumed) == pytest.approx(axis.places(straight)), axis.name
    assert find_axis("samples").places(straight)[60] == 60 * 32 * 5
    assert find_axis("tokens").places(straight)[2] == 9001 + 9002
    assert find_axis("hours").places(straight)[3] == pytest.approx((1.71 + 1.72 + 1.7) / 3600)
    assert find_axis("step").places(straight)[40] == 40
    with pytest.raises(UserError, match=r"--x must be one of step, .* but is 'token'; did you mean tokens\?"):
        find_axis("token")


def test_a_step_that_no_attempt_recorded_costs_the_average() -> None:
    rows = {s: {"training/global_step": s, "perf/total_num_tokens": 10.0 * s} for s in (1, 2, 5)}
    assert find_axis("tokens").places(record(rows)) == {1: 10, 2: 30, 5: 30 + 2 * 80 / 3 + 50}
    assert find_axis("hours").places(record(rows)) == {}


def test_accuracy_is_taken_from_a_score_only_where_the_format_is_known() -> None:
    def rows(score: str, **more: float) -> dict[int, dict[str, float]]:
        lowest = {5: 0.0, 10: 0.1}
        return {s: {"actor/pg_loss": 1.0, "critic/score/min": lowest[s], score: 0.46, **more} for s in (5, 10)}

    earlier = read_curves(record(rows("val/test_score/countdown")))
    assert earlier["greedy"] == [(10, pytest.approx(0.4))] and earlier.scores_accuracy
    shares = {"val-aux/countdown/format/mean@4": 0.64}
    known = read_curves(record(rows("val-core/countdown/reward/mean@4", **shares)))
    assert known["greedy"] == [(5, pytest.approx(0.44)), (10, pytest.approx(0.44))]
    other = read_curves(record(rows("val/test_score/openai/gsm8k")))
    assert other["greedy"] == [(5, 0.46), (10, 0.46)] and not other.scores_accuracy
    plain = record({5: {"actor/pg_loss": 1.0, "val-core/lab/set/acc/mean@8": 0.3}})
    curves, remarks = comparable_curves([record(rows("val/test_score/countdown"))])
    assert remarks == ["accuracy of run computed from a score with 0.1 format credit, where the format is known"]
    assert curves["run"].derived == 1 and read_curves(plain)["greedy"] == [(5, 0.3)]
