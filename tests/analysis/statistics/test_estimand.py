"""The same runs, steps and windows in every number; what was lost makes no result look surer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.design.ablations import Ablation, find_ablations
from analysis.pages.tables import arm_rows
from analysis.plot_ablation import main
from analysis.records.curves import comparable_curves
from analysis.records.history import Row, join
from analysis.records.record import RunRecord
from analysis.sources.run_folders import RunFolders
from analysis.statistics.claims import judge
from analysis.statistics.estimand import find_estimand
from analysis.statistics.summary import Summary, summarise
from experiments.config.sweep_files import Claim, Level, Sweep

MakeRun = Callable[..., Path]
METRIC = "val-core/countdown/acc/mean@1"


def run(n: int, seed: int, steps: int, every: int, value: Callable[[int], float], start: bool = True) -> RunRecord:
    """Return a finished run that validated every `every` steps and at its end, and before it trained if `start`."""
    rows: list[Row] = [(0, {METRIC: value(0)})] if start else []
    for step in range(1, steps + 1):
        more = {METRIC: value(step)} if step % every == 0 or step == steps else {}
        rows.append((step, {"training/global_step": step, "response_length/mean": value(step), **more}))
    config = {"rollout.n": n, "seed": seed, "data.seed": seed}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished", 1, steps)


def summary(records: list[RunRecord], until: int | None = None) -> tuple[Ablation, Summary]:
    (ablation,) = find_ablations(records)
    curves = comparable_curves(ablation.runs)[0]
    return ablation, summarise(ablation, curves, estimand=find_estimand(ablation, until))


def test_the_untrained_model_is_in_no_final_value_and_no_threshold_lies_below_the_start() -> None:
    """Ten steps, validated at 0 and 10. The arm that ends higher started lower."""
    records = [run(5, s, 10, 10, lambda step: 0.112 if step == 0 else 0.219) for s in (1, 2)]
    records += [run(8, s, 10, 10, lambda step: 0.2 if step == 0 else 0.205) for s in (1, 2)]
    _, found = summary(records)
    five, eight = found.arms
    assert five.final == [0.219, 0.219] and eight.final == [0.205, 0.205]
    assert found.rows()[0][2] == "final (step 10)"
    assert eight.effect is not None and eight.effect.value == pytest.approx(0.205 - 0.219)
    assert found.threshold is None and [row[5:7] for row in found.rows()[1:]] == [["-", "-"], ["-", "-"]]
    (ablation,) = find_ablations(records)
    asked = summarise(ablation, comparable_curves(records)[0], threshold=0.15)
    assert [row[5] for row in asked.rows()[1:]] == ["10 ± 0", "at the start"]
    falling = [run(n, 1, 10, 5, lambda step: 0.3 - step / 100) for n in (5, 8)]
    assert summary(falling)[1].arms[0].best == [0.25], "the best is of training, not of the start"


def test_arms_of_other_lengths_and_cadences_are_compared_up_to_a_common_step_and_there_alone() -> None:
    def value(step: int) -> float:
        return step / 200

    records = [run(5, s, 60, 5, value) for s in (1, 2)] + [run(8, s, 100, 20, value) for s in (1, 2)]
    ablation, found = summary(records)
    assert found.estimand.until == 60
    assert found.arms[0].final == found.arms[1].final == [0.3, 0.3]
    assert found.arms[0].area == found.arms[1].area and found.arms[0].best == found.arms[1].best
    assert "Numbers and claims are of the steps up to 60 (dotted line)." in found.note()
    claim = Claim("name", "text", METRIC, "order", (8, 5), (0.0, 1.0))
    faster = Claim("name", "text", METRIC, "rises_faster", (8, 5), (0.0, 1.0))
    length = Claim("name", "text", "response_length/mean", "order", (8, 5), (0.8, 1.0))
    sweep = Sweep("n", "n", "rollout.n", (Level(5, "5"), Level(8, "8")), (1,), (claim, faster, length))
    for verdict in judge(ablation, sweep):
        assert verdict.verdict == "undecided" and verdict.comparisons[0].effect() == pytest.approx(0)
    assert judge(ablation, sweep)[0].reason.count("steps 0-60") == 1
    assert judge(ablation, sweep)[2].reason.count("steps 49-60") == 1
    assert summary(records, until=40)[1].arms[1].final == [0.2, 0.2]
    curves = comparable_curves(ablation.runs)[0]
    assert [row[3] for row in arm_rows(ablation, curves, found.estimand)] == ["0.00→0.30\nbest 0.30"] * 2, (
        "cut there too"
    )


def test_one_short_seed_does_not_cut_its_arm_and_is_told() -> None:
    records = [run(5, s, steps, 10, lambda step: step / 100) for s, steps in ((1, 20), (2, 60), (3, 60))]
    records += [run(8, s, 60, 10, lambda step: step / 100) for s in (1, 2, 3)]
    _, found = summary(records)
    assert found.rows()[1][:3] == ["n=5", "2 of 3", "0.550 ± 0.000"]
    assert "Too short to count: n5-1; --until 20 counts all." in found.note()
    _, early = summary(records, until=20)
    assert early.rows()[1][:3] == ["n=5", "3 of 3", "0.200 ± 0.000"]


def test_no_common_step_is_refused_with_what_to_do(make: MakeRun, runs: Path, tmp_path: Path) -> None:
    records = [run(5, s, 14, 7, lambda step: 0.2) for s in (1, 2)] + [
        run(8, s, 15, 5, lambda step: 0.2) for s in (1, 2)
    ]
    ablation, found = summary(records)
    assert found.has_no_common_step() and found.rows()[1][2] == "-"
    claim = Claim("name", "text", METRIC, "order", (8, 5), (0.8, 1.0))
    sweep = Sweep("n", "n", "rollout.n", (Level(5, "5"), Level(8, "8")), (1,), (claim,))
    assert "train the arms with one trainer.test_freq" in judge(ablation, sweep)[0].reason


def cut(path: Path, last: int) -> None:
    """Cut a run's metrics behind a step, as a careless copy does; its events still say finished."""
    metrics = path / "attempts" / "1" / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= last]
    metrics.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("last", [59, 55, 49, 12])
def test_losing_rows_never_makes_a_result_look_surer(
    told: bool, last: int, make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`told`: whether the finish says at which step it was."""
    paths = [make(temperature=t, seed=s) for t in (0.6, 1.0) for s in (1, 2, 3)]
    for path in paths if told else ():
        events = (path / "events.jsonl").read_text().replace('"finished"', '"finished", "step": 60')
        (path / "events.jsonl").write_text(events)
    before = summary_of(runs)
    cut(paths[0], last)
    after = summary_of(runs)
    lost, sound = after.rows()[1:]
    assert all("±" not in cell or cell.endswith("± ?") for cell in lost) and lost[-1] == "-"
    assert sound[:5] == before.rows()[2][:5], "the other arm's numbers stay as they were"
    assert main(["--runs", str(runs), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"temperature=0.6 seed 1: finished at step {60 if told else last} of 60" in printed
    if told:
        missing = "step 60" if last == 59 else f"steps {last + 1}-60"
        assert f"no rows of {missing} were found" in printed
    page = (tmp_path / "out" / "temperature.md").read_text()
    assert re.search(r"No interval, since rows are missing: [^|]*temperature=0.6", page)
    for line in page.splitlines():
        if "score is higher at temperature 1.0 than at 0.6" in line:
            assert "| undecided | rows are missing" in line


def summary_of(runs: Path) -> Summary:
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    return summarise(ablation, comparable_curves(ablation.runs)[0])


def test_claims_of_one_task_are_not_printed_for_another(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for temperature in (0.6, 1.0, 1.2):
        make(temperature=temperature)
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    claim = "9 claims, none decided"
    assert claim in capsys.readouterr().out
    for path in runs.iterdir():
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("name: countdown", "name: above"))
    assert main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    assert claim not in capsys.readouterr().out and "## Claims" not in (tmp_path / "temperature.md").read_text()
