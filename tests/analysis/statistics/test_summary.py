"""The table of arms: against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from analysis.design.ablations import find_ablations
from analysis.pages.formats import latex
from analysis.records.curves import comparable_curves
from analysis.records.history import join
from analysis.records.record import RunRecord
from analysis.statistics.summary import area, summarise

METRIC = "val-core/countdown_greedy/acc/mean@1"


def run(n: int, seed: int, accuracies: Sequence[float], last: int = 30) -> RunRecord:
    rows = [(0, {METRIC: accuracies[0]})]
    for step in range(1, last + 1):
        row = {"training/global_step": step, "perf/time_per_step": 36.0}
        rows.append((step, {**row, METRIC: accuracies[step // 10]} if step % 10 == 0 else row))
    config = {"rollout.n": n, "seed": seed, "trainer.n_gpus_per_node": 2}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished" if last == 30 else "killed", 1, 30)


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
    summary = summarise(ablation, comparable_curves(ablation.runs)[0])
    assert (summary.curve, round(summary.threshold, 9)) == ("greedy", 0.4)
    three, _, eight = summary.arms
    assert (
        three.final == pytest.approx([0.4, 0.3])
        and eight.final == pytest.approx([0.7, 0.6])
        and three.best == [0.4, 0.5]
    )
    assert three.area == pytest.approx([0.25, (0.25 + 0.45 + 0.4) / 3])
    assert three.steps_to == [30, 10] and three.gpu_hours_to == pytest.approx([0.6, 0.2])
    assert [arm.arm.is_baseline for arm in summary.arms] == [False, True, False], "the article's"
    assert eight.effect is not None and eight.effect.value == pytest.approx(0.65 - 0.35)
    assert three.effect is not None and three.effect.value == pytest.approx(0)
    head, *rows = summary.rows()
    assert head[5] == "steps to 0.4"
    assert rows[0][:4] == ["n=3", "2 of 2", "0.350 ± 0.635", "0.450 ± 0.635"] and rows[0][-1] == "+0 [+0, +0]"
    assert rows[1][-1] == "baseline"


def test_a_killed_run_is_in_no_number_and_its_absence_is_told() -> None:
    records = [run(n, seed, [0.1, 0.2, 0.3, 0.6]) for n in (5, 8) for seed in (1, 2)]
    whole = find_ablations(records)[0]
    (ablation,) = find_ablations([*records, run(8, 3, [0.1, 0.1], last=4)])
    without, summary = (summarise(a, comparable_curves(a.runs)[0]) for a in (whole, ablation))
    assert summary.rows()[2][1] == "2 of 3"
    assert [row[:1] + row[2:] for row in summary.rows()] == [row[:1] + row[2:] for row in without.rows()]
    assert summary.note().endswith("1 run that did not reach the last step is left out.")


def test_the_last_validations_and_the_threshold_are_the_users_to_choose() -> None:
    records = [run(n, seed, [0.1, 0.2, 0.3 + n / 100, 0.4 + seed / 10]) for n in (5, 8) for seed in (1, 2)]
    (ablation,) = find_ablations(records)
    summary = summarise(ablation, comparable_curves(records)[0], last=1, threshold=0.55)
    assert summary.arms[0].final == [0.5, 0.6000000000000001] and summary.arms[0].steps_to == [30]
    head, five, _ = summary.rows()
    assert (head[2], head[5], five[5], five[6]) == ("final (step 30)", "steps to 0.55", "30 (1 of 2)", "0.6 (1 of 2)")
    nobody = summarise(ablation, comparable_curves(records)[0], threshold=0.9)
    assert nobody.rows()[1][5:7] == ["not reached", "not reached"]


def test_a_curve_of_one_point_has_an_area() -> None:
    assert area([(10, 0.3)]) == 0.3


def test_runs_without_validation_have_a_table_too() -> None:
    rows = [(1, {"training/global_step": 1, "critic/score/mean": 0.2})]
    records = [RunRecord(f"n{n}", {"rollout.n": n}, join([rows]), "finished", 1, 1) for n in (3, 5)]
    (ablation,) = find_ablations(records)
    rows = summarise(ablation, comparable_curves(records)[0]).rows()
    assert rows[1] == ["n=3", "1 of 1", "-", "-", "-", "-", "-", "-"]


def test_latex_escapes_what_it_must() -> None:
    text = latex([["arm_name", "50%"], ["a & b", "0.1 ± 0.2"]], "T #1")
    assert r"arm\_name & 50\% \\" in text and r"a \& b & 0.1 $\pm$ 0.2 \\" in text and r"\caption{T \#1}" in text
    hostile = latex([["head"], [r"a\b~c^d<e>"]], "")
    assert r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\textless{}e\textgreater{}" in hostile
