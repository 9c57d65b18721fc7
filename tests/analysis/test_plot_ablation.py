"""The command, from run folders to files."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest

from analysis.plot_ablation import main

MakeRun = Callable[..., Path]


def make_temperatures(make: MakeRun) -> None:
    """Three arms: whole, resumed with overlap, killed."""
    make(temperature=0.6)
    make(temperature=1.0, legs=((1, 37), (31, 60)))
    make(temperature=1.2, legs=((1, 31),), ending=None)


def test_three_arms_become_a_figure_a_table_and_their_numbers(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_temperatures(make)
    out = tmp_path / "figures"
    assert main(["--runs", str(runs), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == f"figure: {out}/temperature.png"
    assert "temperature=1.2 seed 0: killed at step 31 of 60" in printed.out
    assert "miniature: 0.3M-parameter model on a CPU" in printed.out
    assert printed.out.count("one seed decides nothing") == 1, "one line for all claims, not one each"
    assert "  9 claims, none decided: one seed decides nothing; add seed=1,2,3" in printed.out.splitlines()
    endings = ("csv", "md", "pdf", "png", "svg")
    assert sorted(out.glob("temperature.*")) == [out / f"temperature.{ending}" for ending in endings]
    assert [path.name for path in sorted(out.glob("*-*.csv"))] == [
        "temperature-arms.csv",
        "temperature-composition.csv",
    ]
    assert matplotlib.image.imread(out / "temperature.png").shape[1] == 1440
    assert ElementTree.parse(out / "temperature.svg").getroot().tag.endswith("svg")
    assert (out / "temperature.md").read_text() == (Path(__file__).parent / "golden" / "temperature.md").read_text()

    with open(out / "temperature.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    killed = [row for row in rows if row["arm"] == "temperature=1.2" and row["curve"] == "reward"]
    assert [int(row["step"]) for row in killed] == list(range(1, 32))
    whole = [row for row in rows if row["arm"] == "temperature=1.0" and row["curve"] == "length"]
    assert [int(row["step"]) for row in whole] == list(range(1, 61))
    sampled = [row for row in rows if row["arm"] == "temperature=1.0" and row["curve"] == "sampled"]
    assert [int(row["step"]) for row in sampled] == list(range(0, 61, 10))
    assert {row["metric"] for row in sampled} == {"val-core/countdown/acc/mean@1"}


def test_the_same_records_give_the_same_bytes(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    make_temperatures(make)
    digests = []
    for out in (tmp_path / "one", tmp_path / "two"):
        command = [sys.executable, "-m", "analysis.plot_ablation", "--runs", str(runs), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()})
    assert digests[0] == digests[1]
    assert not re.search(rb"20\d\d-\d\d-\d\d", (tmp_path / "one" / "temperature.svg").read_bytes())


def test_a_users_matplotlibrc_changes_nothing(
    make: MakeRun, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(temperature=1.0, steps=20)
    assert main(["--runs", str(runs), "--out", str(tmp_path / "one")]) == 0
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsavefig.dpi: 30\nlines.linewidth: 9\n")
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "analysis.plot_ablation", "--runs", str(runs), "--out", "two"]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(root)})
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / out).glob("*.svg")} for out in ("one", "two"))
    assert len(one) == 2 and one == two


def test_the_mean_goes_on_with_the_seeds_that_there_are(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    make(temperature=0.6, seed=0)
    make(temperature=0.6, seed=1, legs=((1, 44),), ending="failed")
    make(temperature=0.6, seed=2)
    make(temperature=1.0, seed=0)
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    with open(tmp_path / "temperature.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    reward = [row for row in rows if row["arm"] == "temperature=0.6" and row["curve"] == "reward"]
    mean, *seeds = (
        {int(row["step"]): float(row["value"]) for row in reward if row["seed"] == seed}
        for seed in ("mean", "0", "1", "2")
    )
    assert list(mean) == list(range(1, 61))
    assert mean[44] == pytest.approx(sum(seed[44] for seed in seeds) / 3)
    assert mean[45] == pytest.approx((seeds[0][45] + seeds[2][45]) / 2)
    means = {int(row["step"]): row for row in reward if row["seed"] == "mean"}
    assert (means[44]["n"], means[45]["n"]) == ("3", "2")
    assert float(means[45]["low"]) < float(means[45]["value"]) < float(means[45]["high"])
    page = (tmp_path / "temperature.md").read_text()
    assert "| 0.6, 3 seeds | 44-60/60, 2 finished, 1 failed |" in page
    assert "Means of fewer seeds: temperature=0.6 beyond step 44: 2 of 3." in page
    assert "temperature=0.6 seed 1: failed at step 44 of 60" in page
    with open(tmp_path / "temperature-arms.csv", newline="") as file:
        numbers = {(row["arm"], row["quantity"]): row for row in csv.DictReader(file)}
    final = numbers["temperature=0.6", "final"]
    assert float(final["low"]) < float(final["mean"]) < float(final["high"]) and final["n"] == "2"


def test_a_figure_of_one_column_is_legible_and_embeds_true_type(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    for temperature in (0.6, 1.0):
        for seed in range(8):
            make(temperature=temperature, seed=seed, steps=20)
    command = ["--runs", str(runs), "--out", str(tmp_path), "--width", "3.3", "--no-notes"]
    assert main(command) == 0
    assert abs(matplotlib.image.imread(tmp_path / "temperature.png").shape[1] - 3.3 * 150) <= 1
    pdf = (tmp_path / "temperature.pdf").read_bytes()
    assert (b"/Type3" not in pdf and b"/Subtype /Type3" not in pdf and b"/Type42" in pdf) or b"/CIDFontType2" in pdf
    assert main([*command[:-3], "--width", "1"]) == 2

    from analysis.design.ablations import find_ablations
    from analysis.figures.main import draw
    from analysis.figures.style import styled
    from analysis.records.curves import comparable_curves
    from analysis.sources.run_folders import RunFolders

    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    with styled(small=True):
        figure = draw(ablation, comparable_curves(ablation.runs)[0], ["A note."], width=3.3)
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        axes = [one.get_tightbbox(renderer) for one in figure.axes]
        texts = [text for text in figure.findobj(lambda item: hasattr(item, "get_fontsize")) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 7
    assert all(box is not None and box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in axes)
    (band, *_) = figure.axes[0].collections
    lines = [line for line in figure.axes[0].lines if line.get_alpha() and line.get_alpha() < 1]
    assert len(lines) == 16 and all(line.get_alpha() < band.get_alpha() for line in lines), "the band is seen"


@pytest.mark.parametrize("arms", [1, 2, 4, 6])
def test_any_number_of_arms_is_drawn_without_overlaps(make: MakeRun, runs: Path, arms: int) -> None:
    import matplotlib as mpl

    from analysis.design.ablations import find_ablations
    from analysis.figures.captions import caption
    from analysis.figures.main import draw
    from analysis.figures.style import STYLE
    from analysis.records.curves import comparable_curves
    from analysis.sources.run_folders import RunFolders

    for place in range(arms):
        make(temperature=round(0.4 + 0.2 * place, 1), steps=20, ending="planned" if place == 5 else "finished")
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    with mpl.rc_context(STYLE):
        figure = draw(ablation, comparable_curves(ablation.runs)[0], caption(ablation))
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [box for axes in figure.axes if (box := axes.get_tightbbox(renderer)) is not None]
        boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
        boxes += [text.get_window_extent(renderer) for text in figure.texts]
    assert len(figure.axes) == 5
    assert len(figure.legends[0].get_texts()) == arms
    for number, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_plain_verl_without_a_greedy_pair_gives_four_panels(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(0, {"val-core/a/b/reward/mean@2": 0.1}), (1, {"training/global_step": 1, "critic/score/mean": 0.2})]
    make(attempts=[rows], model="qwen2.5-3b", steps=1, name="plain-1")
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "validation shows the mean reward: no accuracy was recorded" in printed
    assert "miniature" not in printed
    assert (tmp_path / "plain-1.png").is_file()


def test_damaged_neighbours_are_named_and_the_rest_is_drawn(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(temperature=0.6)
    path = make(temperature=1.0)
    metrics = path / "attempts" / "1" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    (runs / "old stuff").mkdir()
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert warnings[0].startswith(f"warning: {runs / 'old stuff'}: left out")
    assert "1 damaged or torn line" in warnings[1]


def test_mistakes_get_one_message_and_exit_2(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def complaint(*arguments: str) -> str:
        assert main(["--runs", str(runs), *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return printed.err

    assert re.fullmatch(r"error: no runs found: .*runs, which does not exist; .*experiments\.run.*\n", complaint())
    runs.mkdir()
    assert re.fullmatch(r"error: no runs found: .*, which is empty; .*experiments\.run\n", complaint())
    (runs / "notes").mkdir()
    assert "which holds 1 folder(s), none with a config.yaml; start" in complaint()
    (runs / "notes.txt").write_text("")
    assert "1 folder(s), none with a config.yaml and 1 file(s) (notes.txt), none a .wandb file; start" in complaint()
    assert "no run 'x': there are no runs in" in complaint("x")
    make(ending="planned")
    assert "must have metrics to draw, but none has any yet (1 planned); wait" in complaint()
    make(temperature=0.6)
    assert "begins with 'nonsense'" in complaint("nonsense")
    (tmp_path / "file").write_text("")
    assert main(["--runs", str(runs), "--out", str(tmp_path / "file")]) == 2
    assert "must be a folder that can be written to" in capsys.readouterr().err
    assert "which is not a folder" in complaint("--runs", str(tmp_path / "file"))


def test_nothing_heavy_is_imported(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    make(temperature=0.6)
    make(temperature=1.0)
    script = (
        "import sys\n"
        "from analysis.plot_ablation import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'verl', 'wandb', 'transformers', 'omegaconf', 'hydra', 'pandas'}\n"
        "light = {'matplotlib', 'numpy', 'rich', 'yaml'}\n"
        "print('after help', sorted((heavy | light) & set(sys.modules)))\n"
        f"main(['--runs', {str(runs)!r}, '--out', {str(tmp_path)!r}])\n"
        "print('after all', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "--source PLACE" in done.stdout
    assert "after help []" in done.stdout
    assert done.stdout.splitlines()[-1] == "after all []"


def test_chosen_panels_show_curves_and_any_metric_and_offer_the_nearest(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(temperature=0.6)
    make(temperature=1.0)
    command = ["--runs", str(runs), "--out", str(tmp_path)]
    assert main([*command, "--panels", "greedy,perf/total_num_tokens"]) == 0
    with open(tmp_path / "temperature.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    greedy = [row for row in rows if row["arm"] == "temperature=1.0" and row["curve"] == "greedy"]
    assert len(greedy) == 7 and {row["metric"] for row in greedy} == {"val-core/countdown_greedy/acc/mean@1"}
    tokens = [float(row["value"]) for row in rows if row["curve"] == "perf/total_num_tokens"]
    assert tokens == [9000 + step for step in range(1, 61)] * 2
    drawn = matplotlib.image.imread(tmp_path / "temperature.png")
    assert drawn.shape[0] < 900, "one row of panels"
    capsys.readouterr()
    assert main([*command, "--panels", "perf/total_tokens,greedy,kl_los"]) == 2
    complaints = capsys.readouterr().err.splitlines()
    assert len(complaints) == 2
    assert "no run recorded 'perf/total_tokens'; nearest: perf/total_num_tokens" in complaints[0]
    assert main([*command, "--panels", "qqq"]) == 2
    assert re.search(r"nearest: \w+.*, ", capsys.readouterr().err)
    assert main([*command, "--last", "0", "--threshold", "40"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
