"""The table of arms: against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from analysis.ablations import find_ablations
from analysis.curves import comparable_curves
from analysis.history import join
from analysis.records import RunRecord
from analysis.summary import area, latex, summarise, summary_rows

METRIC = "val-core/countdown_greedy/acc/mean@1"


def run(n: int, seed: int, accuracies: Sequence[float]) -> RunRecord:
    rows = [(0, {METRIC: accuracies[0]})]
    for step in range(1, 31):
        row = {"training/global_step": step, "perf/time_per_step": 36.0}
        rows.append((step, {**row, METRIC: accuracies[step // 10]} if step % 10 == 0 else row))
    config = {"rollout.n": n, "seed": seed, "trainer.n_gpus_per_node": 2}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished", 1, 30)


def test_final_best_area_cost_and_effect() -> None:
    records = [
        run(3, 1, [0.1, 0.2, 0.3, 0.4]),
        run(3, 2, [0.1, 0.4, 0.5, 0.3]),
        run(8, 1, [0.1, 0.5, 0.6, 0.7]),
        run(8, 2, [0.1, 0.5, 0.7, 0.6]),
        run(5, 1, [0.1, 0.2, 0.3, 0.4]),
        run(5, 2, [0.1, 0.4, 0.5, 0.3]),
    ]
    (ablation,) = find_ablations(records)
    summaries, name, threshold = summarise(ablation, comparable_curves(ablation.runs)[0])
    assert (name, round(threshold, 9)) == ("greedy", 0.4)
    three, _, eight = summaries
    assert (
        three.final == pytest.approx([0.3, 0.4])
        and eight.final == pytest.approx([0.6, 0.6])
        and three.best == [0.4, 0.5]
    )
    assert three.area == pytest.approx([0.25, (0.25 + 0.45 + 0.4) / 3])
    assert three.steps_to == [30, 10] and three.gpu_hours_to == pytest.approx([0.6, 0.2])
    assert [summary.arm.is_baseline for summary in summaries] == [False, True, False], "the article's"
    assert eight.effect is not None and eight.effect.value == pytest.approx(0.6 - 0.35)
    assert three.effect is not None and three.effect.value == pytest.approx(0)
    head, *rows = summary_rows(summaries, threshold)
    assert head[5] == "steps to 0.40"
    assert rows[0][:4] == ["n=3", "2", "0.350 ± 0.635", "0.450 ± 0.635"] and rows[0][-1].startswith("+0 [-0.")
    assert rows[1][-1] == "baseline"


def test_a_curve_of_one_point_has_an_area() -> None:
    assert area([(10, 0.3)]) == 0.3


def test_runs_without_validation_have_a_table_too() -> None:
    rows = [(1, {"training/global_step": 1, "critic/score/mean": 0.2})]
    records = [RunRecord(f"n{n}", {"rollout.n": n}, join([rows]), "finished", 1, 1) for n in (3, 5)]
    (ablation,) = find_ablations(records)
    summaries, _, threshold = summarise(ablation, comparable_curves(records)[0])
    assert summary_rows(summaries, threshold)[1] == ["n=3", "1", "-", "-", "-", "-", "-", "-"]


def test_latex_escapes_what_it_must() -> None:
    text = latex([["arm_name", "50%"], ["a & b", "0.1 ± 0.2"]], "T #1")
    assert r"arm\_name & 50\% \\" in text and r"a \& b & 0.1 $\pm$ 0.2 \\" in text and r"\caption{T \#1}" in text
