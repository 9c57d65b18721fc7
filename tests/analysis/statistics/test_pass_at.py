"""pass@k: unbiased, the same as the trainer's, with intervals that hold the truth, wherever the answers are from."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis.plot_ablation import main
from analysis.records.history import History
from analysis.records.passes import Passes, count, read_passes
from analysis.records.record import RunRecord
from analysis.statistics.intervals import t_quantile
from analysis.statistics.pass_at import base_and_trained, by_step, check_wanted, of_counts
from experiments.errors import UserError
from experiments.pass_at import over_problems, pass_at, pass_curve
from tests.analysis.conftest import MakeRun


def test_it_is_the_share_of_k_answers_of_which_one_is_right() -> None:
    for n in range(1, 8):
        for correct in range(n + 1):
            answers = [True] * correct + [False] * (n - correct)
            for k in range(1, n + 1):
                draws = list(itertools.combinations(answers, k))
                assert pass_at(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_it_is_unbiased_and_drawing_with_replacement_is_not() -> None:
    """Summed over all outcomes of n answers, each right with probability p, it is 1 - (1 - p)^k."""
    from math import comb

    n, k, p = 6, 4, 0.2
    chances = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at(n, c, k) for c, w in enumerate(chances)) == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    replaced = sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chances))
    assert replaced < 1 - (1 - p) ** k - 0.03


def test_large_numbers_are_exact_and_k_above_n_is_refused() -> None:
    assert pass_at(10_000, 1, 5_000) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="k must be from 1 to the 4 answers"):
        pass_at(4, 1, 5)
    assert pass_curve([(4, 1), (2, 0)]) == {1: [0.25, 0.0], 2: [0.5, 0.0]}


def test_the_interval_over_problems_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    problems, n, k, held = 50, 8, 4, 0
    chances = random.beta(0.5, 1.0, size=(2000, problems))  # some problems are hopeless, some easy
    truth = float(np.mean(1 - (1 - random.beta(0.5, 1.0, size=400_000)) ** k))
    for own in chances:
        values = [pass_at(n, int(c), k) for c in random.binomial(n, own)]
        _, low, high = over_problems(values, t_quantile(problems - 1))
        held += low <= truth <= high
    assert 0.935 <= held / len(chances) <= 0.965


def test_where_all_problems_are_equal_the_interval_is_not_empty() -> None:
    assert over_problems([1.0] * 20, 2.09)[1:] == pytest.approx((0.82, 1.0), abs=0.01)
    assert over_problems([0.0] * 20, 2.09)[1:] == pytest.approx((0.0, 0.18), abs=0.01)


def answers(step: int, right: Sequence[int], n: int) -> list[dict[str, object]]:
    """Return a validation's dump: n sampled answers to each problem, of which so many are right, and a greedy one."""
    rows: list[dict[str, object]] = []
    for problem, correct in enumerate(right):
        for number in range(n):
            row = {"input": f"p{problem}", "gts": {"target": problem}, "output": "x", "step": step}
            rows.append({**row, "acc": float(number < correct), "data_source": "countdown"})
        rows.append({**row, "acc": 1.0, "data_source": "countdown_greedy"})
    return rows


def test_greedy_answers_are_left_out_failed_ones_are_wrong_and_part_scores_are_refused() -> None:
    rows = answers(0, [2, 0, 4], 4)
    assert sorted(count(rows).values()) == [(4, 0), (4, 2), (4, 4)]
    assert sorted(count(rows[2:]).values()) == [(4, 0), (4, 0), (4, 4)], "two right ones of the first are missing"
    assert count([{**row, "acc": 0.5} for row in rows]) == {}


def test_over_seeds_and_problems_and_only_over_what_all_seeds_have() -> None:
    first, second = count(answers(0, [2, 0, 4], 4)), count(answers(0, [1, 1], 4))
    curve = of_counts(0, [first, second], "validation answers")
    assert curve is not None and (curve.problems, curve.seeds, list(curve.by_k)) == (2, 2, [1, 2, 3, 4])
    assert curve.by_k[1].value == pytest.approx(0.25) and curve.by_k[4].value == pytest.approx(0.75)
    assert 0 <= curve.by_k[4].low < 0.75 < curve.by_k[4].high <= 1


def test_a_k_above_the_answers_is_one_message() -> None:
    runs = [Passes(validated={0: count(answers(0, [2, 0], 4))})]
    check_wanted([1, 4], runs)
    with pytest.raises(UserError, match=r"--pass-at must be at most .* is 8 and a validation problem has 4 answers"):
        check_wanted([4, 8], runs)


def test_where_only_metrics_are_there_they_are_taken() -> None:
    rows = {
        step: {
            "val-core/countdown/acc/mean@4": 0.1 + step / 100,
            "val-aux/countdown/acc/pass@2": 0.2,
            "val-aux/countdown/acc/pass@4": 0.3,
            "val-core/countdown_greedy/acc/mean@1": 0.9,
        }
        for step in (0, 10)
    }
    run = RunRecord("a", {"task.name": "countdown"}, History.of(rows), "finished", 1, 10)
    base, trained = base_and_trained([read_passes(run)])
    assert base is not None and {k: found.value for k, found in base.by_k.items()} == {1: 0.1, 2: 0.2, 4: 0.3}
    assert trained is not None and trained.step == 10 and trained.by_k[1].value == pytest.approx(0.2)


def evaluate(run: Path, step: int, right: Sequence[int], n: int, finished: bool = True) -> None:
    """Write what `python -m experiments.runs evaluate` leaves."""
    folder = run / "evaluations" / f"step_{step}-validation-{n:08x}"
    folder.mkdir(parents=True)
    rows = [row for row in answers(step, right, n) if row["data_source"] == "countdown"]
    numbered = [{**row, "problem": place // n, "sample": place % n} for place, row in enumerate(rows)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in numbered))
    (folder / "settings.json").write_text(json.dumps({"step": step}))
    if finished:
        (folder / "summary.json").write_text(json.dumps({"samples": n, "problems": len(right)}))


def test_the_figures_take_evaluations_before_dumps_and_write_their_numbers(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        run = make(seed=seed)
        for step, right in ((0, [1, 0, 0]), (60, [4, 2, 0])):
            dump = run / "attempts/1/validation" / f"{step}.jsonl"
            dump.parent.mkdir(exist_ok=True)
            dump.write_text("".join(json.dumps(row) + "\n" for row in answers(step, right, 4)))
            evaluate(run, step, [r * 2 for r in right], 8)
            evaluate(run, step, [16, 16, 16], 16, finished=False)
    arguments = ["--source", str(runs), "--out", str(tmp_path / "figures")]
    assert main(arguments) == 0
    (at_k,) = (tmp_path / "figures").glob("*-pass-at-k.csv")
    rows = list(csv.DictReader(at_k.open()))
    assert [(row["step"], row["k"]) for row in rows] == [(s, str(k)) for s in ("0", "60") for k in range(1, 9)]
    found = {(row["step"], int(row["k"])): row for row in rows}
    assert float(found["60", 8]["value"]) == pytest.approx(2 / 3)
    assert float(found["60", 2]["value"]) == pytest.approx((1 + pass_at(8, 4, 2)) / 3)
    assert found["60", 2]["from"] == "evaluated answers" and found["60", 2]["seeds"] == "2"
    (by_steps,) = (tmp_path / "figures").glob("*-pass-by-step.csv")
    rows = list(csv.DictReader(by_steps.open()))
    assert [(row["step"], row["k"]) for row in rows] == [(s, k) for s in ("0", "60") for k in ("1", "2", "4")]
    assert {file.suffix for file in (tmp_path / "figures").glob("*-pass-*")} == {".png", ".svg", ".pdf", ".csv"}
    assert main([*arguments, "--pass-at", "2,9"]) == 2
    assert "is 9 and a validation problem has 4 answers" in capsys.readouterr().err
    assert main([*arguments, "--pass-at", "two"]) == 2
    assert "--pass-at must be whole numbers of at least 1, but is two" in capsys.readouterr().err


def test_steps_that_a_seed_lacks_are_left_out() -> None:
    whole = {step: count(answers(step, [1, 1], 4)) for step in (0, 10, 20)}
    found = by_step([Passes(validated=whole), Passes(validated={step: whole[step] for step in (0, 20)})])
    assert [curve.step for curve in found] == [0, 20]
