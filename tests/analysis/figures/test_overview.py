"""The figure of all ablations: what is drawn, its numbers, and that a smaller study does not take its place."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot
import pytest
from matplotlib.text import Text

from analysis.design.ablations import find_ablations
from analysis.figures.overview import Part, overview, runs_shown
from analysis.figures.series import View
from analysis.figures.style import NARROW, styled
from analysis.plot_ablation import main
from analysis.records.curves import comparable_curves
from analysis.sources.run_folders import RunFolders
from analysis.statistics.intervals import mean_interval

MakeRun = Callable[..., Path]


def parts_of(make: MakeRun, runs: Path) -> list[Part]:
    """Three ablations that share a baseline: the temperature with two seeds, n and KL."""
    for seed in (1, 2):
        make(seed=seed, temperature=0.6)
        make(seed=seed)
        make(seed=seed, n=8)
    make(seed=1, kl=0.01)
    ablations = find_ablations(RunFolders(runs).read()[0])
    return [Part(ablation, comparable_curves(ablation.runs)[0]) for ablation in ablations]


@pytest.mark.parametrize("width", [3.3, 9.6])
def test_each_ablation_has_its_length_and_its_score(width: float, make: MakeRun, runs: Path) -> None:
    parts = parts_of(make, runs)
    with styled(small=width < NARROW):
        figure = overview(parts, View(), width).figure
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
    assert figure.get_size_inches()[0] == width
    assert box.x0 >= -0.01 and box.x1 <= width + 0.01, "nothing is cut off at the sides"
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 7
    assert len(figure.axes) == 6
    for panels in (figure.axes[::2], figure.axes[1::2]):
        assert len({axes.get_ylim() for axes in panels}) == 1, "panels that are compared have one scale"
    shown = [text.get_text() for text in texts]
    assert {"Rollout temperature", "Responses per prompt", "KL coefficient"} <= set(shown)
    assert any(text.endswith("0.6 (2 seeds)") for text in shown), shown
    assert any("miniature" in text for text in shown)
    matplotlib.pyplot.close("all")


def test_the_numbers_are_means_with_their_intervals_and_the_runs_are_named(make: MakeRun, runs: Path) -> None:
    parts = parts_of(make, runs)
    with styled():
        head, *rows = overview(parts, View()).numbers
    assert head == ["ablation", "curve", "arm", "step", "mean", "low", "high", "seeds"]
    (cold,) = [arm for arm in parts[0].ablation.arms if "0.6" in arm.label]
    values = [dict(parts[0].curves[run.name]["length"])[7] for run in cold.runs]
    interval = mean_interval(values)
    assert interval
    (row,) = [
        r for r in rows if r[0] == "Rollout temperature" and r[1] == "length" and r[2] == cold.label and r[3] == 7
    ]
    assert row[4:] == pytest.approx([interval.value, interval.low, interval.high, 2])
    alone = [r for r in rows if r[0] == "KL coefficient" and r[2] == "kl=0.01" and r[1] == "sampled"]
    assert [r[3] for r in alone] == list(range(0, 61, 10)) and {tuple(r[5:]) for r in alone} == {(None, None, 1)}
    _, *named = runs_shown(parts)
    assert [row[2] for row in named if row[1] == cold.label] == [1, 2] and {row[4] for row in named} == {60}


def test_it_is_written_for_two_ablations_or_more_and_kept_from_fewer_runs(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    parts_of(make, runs)
    assert main(["--runs", str(runs), "--out", str(out)]) == 0
    assert f"{out}/overview.{{png,svg,pdf,csv,md}}" in capsys.readouterr().out.splitlines()
    with open(out / "overview-runs.csv", newline="") as file:
        assert len({row["run"] for row in csv.DictReader(file)}) == 7
    page = (out / "overview.md").read_text()
    assert "| KL coefficient | A coefficient of 0.001 is better than none. | undecided | undecided | no run" in page
    assert "| Rollout temperature | T = 0.6 | 2 of 2 | 60 | 5.42e+05 |" in page, page
    with open(out / "overview-claims.csv", newline="") as file:
        claims = {(row["claim"], row["comparison"]): row for row in csv.DictReader(file)}
    more = claims["higher-accuracy", "1.0 - 0.6"]
    assert float(more["low"]) < float(more["effect"]) < float(more["high"]) and more["seeds"] == "2"
    assert claims["hot-stays-below", ""]["reason"] == "no run with rollout.temperature = 1.2"
    before = (out / "overview.png").read_bytes()
    for factor in ({"temperature": 0.7}, {}, {"n": 4}):
        make(seed=9, steps=2, legs=((1, 2),), **factor)
    assert main(["--runs", str(runs), "--out", str(out), "--filter", "seed=9"]) == 0
    assert (out / "overview.png").read_bytes() == before
    assert (out / "overview--2.png").exists()
    assert (
        main(
            [
                "--runs",
                str(runs),
                "--out",
                str(tmp_path / "one"),
                "--filter",
                "rollout.n=5",
                "--filter",
                "kl.coef=0.001",
            ]
        )
        == 0
    )
    assert not list((tmp_path / "one").glob("overview*"))
