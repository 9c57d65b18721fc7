"""Fits of accuracy against compute: right on known curves, as sure as they say, none where none is determined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import curve_fit

from analysis.figures.fits import BEYOND, draw, fitted
from analysis.figures.main import save
from analysis.pages.study import read_study
from analysis.pages.tables import fit_table
from analysis.plot_ablation import parse
from analysis.statistics.arm_fits import ArmFit
from analysis.statistics.fits import Fit, NoFit, curve, fit, least_squares

MakeRun = Callable[..., Path]
COMPUTE = np.linspace(5, 60, 12)
START, END, HALF, STEEP = 0.12, 0.6, 18.0, 1.8


def drawn(random: np.random.Generator, seeds: int, noise: float = 0.01) -> list[np.ndarray]:
    """Return the accuracies of seeds whose ends and paces differ, with the noise of a validation."""
    found = []
    for _ in range(seeds):
        end, half = END + random.normal(0, 0.02), HALF * np.exp(random.normal(0, 0.12))
        found.append(curve(COMPUTE, START, end, half, STEEP) + random.normal(0, noise, len(COMPUTE)))
    return found


@pytest.mark.parametrize(("end", "half", "steep"), [(0.6, 18, 1.8), (0.3, 8, 4.0), (0.95, 40, 1.0), (0.5, 3, 0.7)])
def test_a_curve_without_noise_is_found_again(end: float, half: float, steep: float) -> None:
    gains = curve(COMPUTE, START, end, half, steep) - START
    gain, found_half, found_steep = least_squares(COMPUTE, gains[None], 1 - START)
    assert START + gain[0] == pytest.approx(end, rel=1e-3)
    assert np.exp(found_half[0]) == pytest.approx(half, rel=1e-3)
    assert np.exp(found_steep[0]) == pytest.approx(steep, rel=1e-3)


def test_scipy_finds_the_same_curve() -> None:
    random = np.random.default_rng(1)
    for _ in range(10):
        (values,) = drawn(random, 1)
        gain, half, steep = least_squares(COMPUTE, (values - START)[None], 1 - START)
        expected, _ = curve_fit(lambda c, a, m, b: curve(c, START, a, m, b), COMPUTE, values, p0=[0.5, 15, 1.5])
        assert (START + gain[0], np.exp(half[0]), np.exp(steep[0])) == pytest.approx(tuple(expected), rel=5e-3)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_intervals_hold_the_truth_as_often_as_they_say(seeds: int) -> None:
    random, trials = np.random.default_rng(seeds), 400
    found = [fit(COMPUTE, START, drawn(random, seeds)) for _ in range(trials)]
    fits = [one for one in found if isinstance(one, Fit)]
    assert len(fits) > 0.95 * trials
    for truth, name in ((END, "asymptote"), (HALF, "half"), (STEEP, "steepness")):
        held = sum(getattr(one, name).low <= truth <= getattr(one, name).high for one in fits) / len(fits)
        assert 0.915 <= held <= 0.985, f"{name}: {held}"  # 95%, and three standard deviations of 400 trials


@pytest.mark.parametrize(
    ("compute", "start", "seeds", "reason"),
    [
        (COMPUTE, None, [curve(COMPUTE, START, END, HALF, STEEP)] * 3, "the base model was not validated"),
        (COMPUTE, START, [curve(COMPUTE, START, END, HALF, STEEP)], "1 seed, where 3 are needed"),
        (COMPUTE[:1], START, [[0.2], [0.3], [0.25]], "1 validated steps, where 5 are needed"),
        (COMPUTE, START, [START + 0.003 * COMPUTE + d for d in (0, 0.01, -0.01)], "has not bent"),
        (COMPUTE, START, [START + d + 0 * COMPUTE for d in (0, 0.01, -0.01)], "accuracy did not rise"),
        (COMPUTE, START, [START - 0.001 * COMPUTE + d for d in (0, 0.01, -0.01)], "accuracy did not rise"),
        (COMPUTE, START, [curve(COMPUTE, START, e, 90, 1.5) for e in (0.5, 0.6, 0.7)], "has not bent"),
        (COMPUTE, START, [START + rise * np.log(COMPUTE) for rise in (0.04, 0.06, 0.08)], "has not bent"),
    ],
)
def test_what_is_not_determined_has_no_fit(
    compute: Sequence[float], start: float | None, seeds: Sequence[Sequence[float]], reason: str
) -> None:
    found = fit(compute, start, seeds)
    assert isinstance(found, NoFit) and reason in found.reason


def test_an_arm_s_fit_is_drawn_a_little_beyond_the_data_and_tabled(make: MakeRun, runs: Path) -> None:
    random = np.random.default_rng(0)
    for temperature, ends in ((1.0, (0.6, 0.62, 0.58)), (0.6, (0.4,))):
        for seed, end in enumerate(ends):
            rows = []
            for step in range(0, 61, 5):
                trained = {"training/global_step": step, "perf/time_per_step": 3600.0} if step else {}
                accuracy = START if not step else float(curve(np.array([step / 5]), START, end, 3.0, 1.8)[0])
                rows.append((step, {**trained, "val-core/countdown/acc/mean@4": accuracy + random.normal(0, 0.003)}))
            make(seed=seed, temperature=temperature, attempts=[rows])
    study = read_study(parse(["--source", str(runs)]))
    (finding,) = study.findings
    known = {arm.label: arm.found for arm in finding.fits.arms}
    found, none = known["temperature=1.0"], known["temperature=0.6"]
    assert isinstance(found, Fit) and found.asymptote.low <= 0.6 <= found.asymptote.high
    assert found.half.value == pytest.approx(15.0, rel=0.1) and found.span == (5.0, 60.0)  # an hour a step
    assert isinstance(none, NoFit)
    assert any("ends at 0." in line for line in finding.fits.lines())
    table = fit_table(finding.fits)
    assert "no fit: 1 seed, where 3 are needed" in table and f"{found.asymptote.value:.3g} [" in table
    extra = fitted(finding.ablation, finding.fits, [], 9.6)
    assert extra is not None
    numbers = [dict(zip(extra.numbers[0], row, strict=True)) for row in extra.numbers[1:]]
    line = [float(row["compute"]) for row in numbers if row["kind"] == "fit"]
    assert (min(line), max(line)) == pytest.approx((5.0, 60.0 * BEYOND))
    assert [row["arm"] for row in numbers if str(row["kind"]).startswith("no fit")] == ["temperature=0.6"]
    assert [row["value"] for row in numbers if row["kind"] == "asymptote"] == [repr(found.asymptote.value)]


def test_a_figure_of_ten_thousand_points_stays_small() -> None:
    random, compute = np.random.default_rng(0), np.linspace(5, 60, 500)
    seeds = [(curve(compute, START, END, HALF, STEEP) + random.normal(0, 0.02, 500)).tolist() for _ in range(20)]
    sizes = {}
    for number in (1, 20):
        figure = Figure(figsize=(4, 3))
        draw(figure.add_subplot(), ArmFit("n=8", "n = 8", compute.tolist(), seeds[:number], NoFit("not asked for")))
        sizes[number] = len(save(figure, "fit", ("svg",))["svg"])
    assert sizes[20] < 3 * sizes[1] and sizes[20] < 300_000  # a vector a point: 1.2 MB
