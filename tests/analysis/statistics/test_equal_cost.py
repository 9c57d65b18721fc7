"""Arms at equal cost: read at equal shares of it, with the verdicts that equal steps would hide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.design.ablations import find_ablations
from analysis.plot_ablation import main
from analysis.records.axes import find_axis
from analysis.records.curves import comparable_curves
from analysis.sources.run_folders import RunFolders
from analysis.statistics.equal_cost import at_equal_cost
from analysis.statistics.estimand import find_estimand
from analysis.statistics.summary import summarise
from experiments.errors import UserError

MakeRun = Callable[..., Path]
ACCURACY, GREEDY = "val-core/countdown/acc/mean@4", "val-core/countdown_greedy/acc/mean@1"


def learn(make: MakeRun, n: int, seed: int, cost: bool = True) -> None:
    """Make a run of 20 steps whose accuracy depends on its tokens alone: 0.1 and 0.02 for each thousand.

    A step takes n * 100 tokens. So at equal steps more responses are better, at equal tokens nothing is.
    """
    rows = [(0, {ACCURACY: 0.1, GREEDY: 0.2})]
    for step in range(1, 21):
        row = {"training/global_step": step, "critic/score/mean": 0.1 + 0.001 * seed, "response_length/mean": 50.0}
        row |= {"perf/total_num_tokens": 100.0 * n} if cost else {}
        row |= {ACCURACY: 0.1 + 0.02 * n * step / 10 + 0.001 * seed, GREEDY: 0.2} if step % 5 == 0 else {}
        rows.append((step, row))
    make(n=n, seed=seed, steps=20, attempts=[rows], overrides={"trainer.test_freq": 5})


def test_what_depends_on_tokens_alone_differs_at_equal_steps_and_not_at_equal_tokens(make: MakeRun, runs: Path) -> None:
    for seed in (1, 2, 3):
        learn(make, 5, seed)
        learn(make, 10, seed)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    by_steps = summarise(ablation, comparable_curves(ablation.runs)[0], estimand=find_estimand(ablation))
    (effect,) = [arm.effect for arm in by_steps.arms if arm.effect]
    assert effect.low > 0.1 or effect.high < -0.1
    counted, cost, note = at_equal_cost(ablation, find_axis("tokens"))
    assert cost and cost.a_step == 500 and "equal tokens: up to 1e+04, interpolated" in note
    estimand = find_estimand(counted, cost=cost)
    curves = comparable_curves(counted.runs)[0]
    by_tokens = summarise(counted, curves, threshold=0.25, estimand=estimand)
    (effect,) = [arm.effect for arm in by_tokens.arms if arm.effect]
    assert effect.value == pytest.approx(0, abs=1e-12)
    for run in counted.runs:
        points = dict(curves[run.name]["sampled"])
        assert list(points) == [0, 5, 10, 15, 20], "as far apart as it was validated"
        assert points[10] == pytest.approx(0.1 + 0.02 * 5 + 0.001 * run.seed, abs=1e-3)
    head, *rows = by_tokens.rows()
    assert (
        "final (1e+04 tokens)" in head and "tokens to 0.25" in head and not [cell for cell in head if "hours" in cell]
    )
    assert {row[head.index("tokens to 0.25")] for row in rows} == {"7.5e+03 ± 0"}
    numbers = by_tokens.numbers()
    assert [row[2] for row in numbers if row[1] == "cost_to"] == ["7500.0", "7500.0"]


def test_a_run_that_did_not_record_its_cost_is_left_out_and_named(make: MakeRun, runs: Path) -> None:
    learn(make, 5, 1)
    learn(make, 10, 1, cost=False)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    counted, cost, note = at_equal_cost(ablation, find_axis("tokens"))
    assert cost and [run.config["rollout.n"] for run in counted.runs] == [5]
    (missing,) = [run.name for run in ablation.runs if run.config["rollout.n"] == 10]
    assert f"Not counted, since their tokens were not recorded: {missing}." in note
    counted, cost, _ = at_equal_cost(ablation, find_axis("hours"))
    assert cost is None and not counted.runs and find_estimand(counted).until == 0


def test_the_command_says_what_its_numbers_are_of(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        for n in (3, 5, 8):
            learn(make, n, seed)
    command = ["--runs", str(runs), "--out", str(tmp_path / "figures")]
    assert main([*command, "--equal", "tokens"]) == 0
    printed = capsys.readouterr().out
    assert "equal tokens: up to 6e+03" in printed and "claims" not in printed.split("figure:")[-1]
    table = (tmp_path / "figures" / "rollout_n.md").read_text()
    assert "6e+03 tokens" in table and "steps to" not in table
    assert main([*command, "--equal", "token"]) == 2
    assert "--equal must be one of" in capsys.readouterr().err
    assert main([*command, "--equal", "tokens", "--until", "10"]) == 2
    assert "--until must be left out with --equal tokens" in capsys.readouterr().err
    assert main([*command, "--equal", "hours"]) == 0, "no run recorded its hours: nothing is counted, the curves say so"


def test_steps_are_no_cost(make: MakeRun, runs: Path) -> None:
    learn(make, 5, 1)
    (ablation,) = find_ablations(RunFolders(runs).read()[0])
    with pytest.raises(UserError, match="must be a cost"):
        at_equal_cost(ablation, find_axis("step"))
