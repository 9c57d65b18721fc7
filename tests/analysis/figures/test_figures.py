"""What is drawn, read off matplotlib's own objects."""

from __future__ import annotations

import csv
import itertools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import plot_ablation, report
from analysis.design.ablations import find_ablations
from analysis.design.arms import Arm
from analysis.figures.captions import caption
from analysis.figures.layout import layout
from analysis.figures.main import CUT_BANDS, draw
from analysis.figures.responses import extras
from analysis.figures.series import View
from analysis.figures.smoothing import parse_smoothing, twema
from analysis.figures.style import COLOURS, NARROW, look, styled
from analysis.records.curves import comparable_curves
from analysis.sources.run_folders import RunFolders
from analysis.statistics.intervals import mean_interval
from tests.analysis.conftest import made_up_rows

MakeRun = Callable[..., Path]
README = Path(__file__).parents[3] / "README.md"
OPTIONS = README.parent / "docs" / "figures.md"


def drawn(runs: Path, view: View | None = None, *panels: str) -> tuple[Figure, list[str]]:
    """Return (the figure of the runs' one ablation, its caption)."""
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    notes = caption(ablation, view, panels)
    with styled():
        return draw(ablation, comparable_curves(ablation.runs, panels)[0], notes, view, panels), notes


def lines(axes: Any, colour: str) -> list[Any]:
    return [line for line in axes.lines if matplotlib.colors.to_hex(line.get_color()) == colour.lower()]


def test_every_seed_is_drawn_their_mean_with_its_dashes_and_n_is_in_the_legend(make: MakeRun, runs: Path) -> None:
    for temperature, seeds in ((0.6, (1, 2, 3)), (1.0, (1,))):
        for seed in seeds:
            make(temperature=temperature, seed=seed)
    figure, notes = drawn(runs)
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["temperature=0.6 (3 seeds)", "temperature=1.0 (1 seed)"]
    sampled = figure.axes[0]
    *seeds_, mean = lines(sampled, COLOURS[0])
    assert len(seeds_) == 3 and all(line.get_marker() in ("", "None") and line.get_alpha() < 1 for line in seeds_)
    assert mean.get_marker() == "o" and np.allclose(mean.get_ydata(), np.mean([x.get_ydata() for x in seeds_], axis=0))
    (alone,) = lines(sampled, COLOURS[1])
    assert alone.get_marker() == "s" and alone.get_linestyle() == "--" and alone.get_alpha() == 1
    (band,) = sampled.collections
    at_40 = mean_interval([line.get_ydata()[4] for line in seeds_])
    assert at_40 is not None and band.get_paths()[0].contains_point((40, at_40.low + 1e-6))
    assert not band.get_paths()[0].contains_point((40, at_40.low - 1e-4)), (
        "one seed has no band, three have a t-interval"
    )
    assert "Bands: 95% interval of the mean over seeds (Student's t)." in notes


@pytest.mark.parametrize("seeds", [2, 5, 6])
def test_the_drawn_band_is_students_t_at_any_number_of_seeds(seeds: int, make: MakeRun, runs: Path) -> None:
    for seed in range(seeds):
        make(seed=seed)
    figure, notes = drawn(runs)
    (band,) = figure.axes[0].collections
    *seeds_, _ = figure.axes[0].lines
    t = mean_interval([line.get_ydata()[-1] for line in seeds_])
    heights = [y for x, y in band.get_paths()[0].vertices if x == 60]
    assert t is not None and (min(heights), max(heights)) == pytest.approx((t.low, t.high))
    assert "Bands: 95% interval of the mean over seeds (Student's t)." in notes


# Machado, Oliveira and Fernandes 2009: how those who lack one kind of cone see linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_differ_for_every_kind_of_sight(sight: str) -> None:
    linear = [np.array(matplotlib.colors.to_rgb(colour)) ** 2.2 for colour in COLOURS]
    seen = [np.clip(np.array(SIGHT[sight]) @ colour, 0, 1) ** (1 / 2.2) for colour in linear]
    apart = [float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)]
    assert min(apart) > 0.1, "no two are alike, even without their dashes and markers"
    white = [float(np.linalg.norm(1 - colour)) for colour in seen]
    assert min(white) > 0.4, "none vanishes on paper"


def test_arms_differ_in_dashes_and_marker_too() -> None:
    looks = [look(place) for place in range(280)]
    assert len({(one.colour, one.dashes, one.marker) for one in looks}) == 280
    for one, other in itertools.pairwise(looks):
        assert one.colour != other.colour and one.dashes != other.dashes and one.marker != other.marker


def test_smoothing_leaves_the_raw_line_behind_and_validation_as_it_is(make: MakeRun, runs: Path) -> None:
    make()
    plain, _ = drawn(runs)
    smooth, notes = drawn(runs, View(smoothing=parse_smoothing("twema:0.8")))
    reward = next(axes for axes in smooth.axes if axes.get_title(loc="left") == "Training reward")
    raw, shown = reward.lines
    was = next(axes for axes in plain.axes if axes.get_title(loc="left") == "Training reward").lines[0]
    assert np.array_equal(raw.get_ydata(), was.get_ydata()) and raw.get_alpha() == 0.2
    xs, ys = list(was.get_xdata()), list(was.get_ydata())
    assert np.allclose(shown.get_ydata(), twema(xs, ys, 0.8)) and not np.allclose(shown.get_ydata(), ys)
    assert raw.get_zorder() <= shown.get_zorder()
    assert np.array_equal(smooth.axes[0].lines[0].get_ydata(), plain.axes[0].lines[0].get_ydata())
    assert (
        "Training curves are smoothed (twema 0.8), with the recorded ones pale behind. Validation is not smoothed."
        in notes
    )


def test_entropy_and_kl_at_different_temperatures_are_warned_of_under_the_figure(make: MakeRun, runs: Path) -> None:
    rows = [(step, {"training/global_step": step, "actor/entropy": 1.0, "actor/kl_loss": 0.1}) for step in (1, 2)]
    for temperature in (0.6, 1.0):
        make(temperature=temperature, attempts=[rows], steps=2)
    warning = "veRL divides logits by the temperature: entropy and KL at different temperatures are not on one scale."
    for panel in ("actor/entropy", "actor/kl_loss"):
        figure, notes = drawn(runs, None, panel)
        assert warning in notes and any(warning in text.get_text() for text in figure.texts)
    assert warning not in drawn(runs)[1]


def test_the_commands_axis_and_smoothing_reach_the_numbers(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    for temperature in (0.6, 1.0):
        make(temperature=temperature)
    command = ["--runs", str(runs), "--out", str(tmp_path), "--x", "tokens", "--smooth", "twema:0.9"]
    assert plot_ablation.main(command) == 0
    with open(tmp_path / "temperature.csv", newline="") as content:
        rows = [row for row in csv.DictReader(content) if row["curve"] in ("reward", "sampled")]
    reward = [row for row in rows if row["curve"] == "reward"]
    values = [float(row["value"]) for row in reward]
    assert [float(row["x"]) for row in reward[:2]] == [9001, 9001 + 9002]
    xs = [float(row["x"]) for row in reward if row["run"] == reward[0]["run"]]
    assert float(reward[1]["smoothed"]) == pytest.approx(twema(xs, values[: len(xs)], 0.9)[1])
    assert float(reward[1]["smoothed"]) != pytest.approx(values[1])
    assert {row["smoothed"] for row in rows if row["curve"] == "sampled"} == {""}


@pytest.mark.parametrize(
    "command",
    re.findall(r"^python -m analysis\.\S+ .*?(?=  +#|$)", README.read_text() + OPTIONS.read_text(), re.MULTILINE),
)
def test_every_command_of_the_pages_does_what_it_says(
    command: str, make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(step, {"training/global_step": step, "actor/entropy": 1.0, "perf/time_per_step": 1.0}) for step in (1, 2)]
    rows[1][1].update({"val-core/countdown/acc/mean@1": 0.3, "val-core/countdown_greedy/acc/mean@1": 0.5})
    for temperature in (0.6, 1.0):
        make(temperature=temperature, attempts=[[*rows, (2, {"response_length/mean": 50.0})]], steps=2)
    monkeypatch.chdir(tmp_path)
    _, _, module, *arguments = shlex.split(command)
    assert {"analysis.plot_ablation": plot_ablation, "analysis.report": report}[module].main(arguments) == 0
    made = "report.html" if module == "analysis.report" else "temperature.png"
    assert (tmp_path / "figures" / made).stat().st_size > 10_000


def test_the_two_panels_of_the_article_are_one_option(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    for temperature in (0.6, 1.0):
        make(temperature=temperature)
    figure, _ = drawn(runs, None, "sampled", "length")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Validation accuracy, sampled at T=1", "Response length, tokens"]
    assert "--panels sampled,length" in README.read_text(), "and it is documented"


@pytest.mark.parametrize(("width", "noted"), [(3.3, False), (3.3, True), (9.6, True)])
def test_every_figure_is_as_wide_as_asked_with_letters_that_can_be_read(
    width: float, noted: bool, make: MakeRun, runs: Path
) -> None:
    phases = {"timing_s/gen": 1.0, "timing_s/update_actor": 0.4, "timing_s/step": 1.5, "perf/throughput": 5000.0}
    for temperature in (0.6, 0.8, 1.0, 1.2):
        rows = [(step, {**row, **phases}) for step, row in made_up_rows(1, temperature, 1, 20)]
        make(temperature=temperature, seed=1, attempts=[rows], steps=20)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    said = {run.name: {1: [0.5, 0.25]} for run in ablation.runs}
    with styled(small=width < NARROW):
        figures = extras(ablation, None, said, ("let me see", "wait"), width, noted)
        main = draw(ablation, comparable_curves(ablation.runs)[0], [], None, (), width)
        for figure in [main, *(extra.figure for extra in figures)]:
            assert figure.get_size_inches()[0] == width
            figure.draw_without_rendering()
            box = figure.get_tightbbox()  # inches
            assert box.x0 >= -0.01 and box.x1 <= width + 0.01, "nothing is cut off at the sides"
            texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
            assert min(text.get_fontsize() for text in texts) >= 7
    for extra in figures:
        assert any("miniature" in text.get_text() for text in extra.figure.texts) is noted
    assert [extra.name for extra in figures] == ["composition", "phrases", "efficiency"]


@pytest.mark.parametrize("width", [3.3, 6.0, 9.6])
def test_long_names_and_titles_stay_apart_and_inside(width: float, make: MakeRun, runs: Path) -> None:
    """A panel's title has two lines, and ends in dots if they can't hold it."""
    for seed in (1, 2):
        make(seed=seed)
    seeds = RunFolders(runs).read()[0]
    names = ["GRPO", "DAPO, no dynamic sampling", "x" * 60, "a name of so many words that two lines can't hold it " * 2]
    arms = [Arm(name, tuple(seeds)) for name in names]
    with styled(small=width < NARROW):
        figure = layout("pass@k of the base and of the trained model", arms, 1, ["base", "trained"], [], width).figure
        figure.draw_without_rendering()
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() in titles]
        assert len(boxes) == len(names)
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        assert figure.get_tightbbox().x1 <= width + 0.01
    assert titles[1].endswith("(2\N{NO-BREAK SPACE}seeds)") and titles[3].endswith("...")


def test_a_line_marks_the_last_step_that_counts(make: MakeRun, runs: Path) -> None:
    for temperature in (0.6, 1.0):
        make(temperature=temperature)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    curves = comparable_curves(ablation.runs)[0]
    for until in (None, 40):
        figure = draw(ablation, curves, [], None, (), 9.6, until)
        lines = [line.get_xdata()[0] for axes in figure.axes for line in axes.lines if line.get_linestyle() == ":"]
        assert lines == [until] * (len(figure.axes) if until else 0)


def test_a_band_that_reaches_beyond_its_panel_is_told_in_the_panel(make: MakeRun, runs: Path) -> None:
    for temperature, spread in ((0.6, 0.0), (1.0, 9.0)):
        for seed in (1, 2):
            rows = [(s, {"training/global_step": s, "response_length/mean": 50 + s + spread * seed}) for s in (1, 2, 3)]
            make(temperature=temperature, seed=seed, attempts=[rows], steps=3)
    figure, _ = drawn(runs, None, "length")
    (axes,) = figure.axes
    assert CUT_BANDS in [text.get_text() for text in axes.texts]
    figure, _ = drawn(runs, None, "sampled")
    assert CUT_BANDS not in [text.get_text() for axes in figure.axes for text in axes.texts]
