"""Verdicts: on made-up arms whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.ablations import find_ablations
from analysis.claims import Verdict, judge
from analysis.history import join
from analysis.records import RunRecord
from analysis.sweeps import read_sweeps, sweep_of
from experiments.sweep import Claim, Level, Sweep

Shape = Callable[[float, int], float]
STEPS = 40


def run(n: int, seed: int, shape: Shape, noise: float, steps: int = STEPS, metric: str = "m") -> RunRecord:
    draw = random.Random(f"{n} {seed}")
    own = draw.gauss(0, noise)
    rows = [(s, {"training/global_step": s, metric: shape(s / STEPS, n) + own}) for s in range(1, steps + 1)]
    config = {"rollout.n": n, "seed": seed, "algorithm.adv_estimator": "grpo"}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished" if steps == STEPS else "killed", 1, STEPS)


def verdict(kind: str, levels: tuple[Any, ...], shape: Shape, seeds: int, noise: float = 0.01, **more: Any) -> Verdict:
    claim = Claim("name", "text", more.pop("metric", "m"), kind, levels, more.pop("at", (0.8, 1.0)))
    sweep = Sweep("n", "n", "rollout.n", tuple(Level(n, f"n = {n}") for n in (3, 5, 8)), (1,), (claim,))
    records = [run(n, seed, shape, noise, **more) for n in (3, 5, 8) for seed in range(seeds)]
    (ablation,) = find_ablations(records, [sweep])
    (answer,) = judge(ablation, sweep)
    return answer


def rising(share: float, n: int) -> float:
    return n * share / 10


def dipping(share: float, n: int) -> float:
    return 50 - 30 * share if share < 0.5 else 20 + 40 * share


def saturating(share: float, n: int) -> float:
    return {3: 0.3, 5: 0.49, 8: 0.5}[n]


@pytest.mark.parametrize(
    ("kind", "levels", "shape", "expected"),
    [
        ("order", (8, 5, 3), rising, "supported"),
        ("order", (3, 5), rising, "contradicted"),
        ("order", (8, 3, 5), rising, "contradicted"),
        ("rises", (3, 8), rising, "supported"),
        ("falls", (3,), rising, "contradicted"),
        ("falls", (3,), saturating, "undecided"),
        ("never_rises", (3, 8), saturating, "supported"),
        ("never_rises", (8,), rising, "contradicted"),
        ("minimum_inside", (3, 5, 8), dipping, "supported"),
        ("minimum_inside", (5,), rising, "undecided"),
        ("close", (8, 5), saturating, "supported"),
        ("close", (5, 3), saturating, "contradicted"),
    ],
)
def test_three_seeds_decide_what_is_plain(kind: str, levels: tuple[int, ...], shape: Shape, expected: str) -> None:
    answer = verdict(kind, levels, shape, seeds=3, noise=0.005)
    assert answer.verdict == expected, answer.reason
    assert "3" in answer.reason and "[" in answer.reason, "it tells the interval and the seeds"


@pytest.mark.parametrize("kind", ["order", "rises", "falls", "never_rises", "close", "minimum_inside"])
@pytest.mark.parametrize("shape", [rising, dipping, saturating])
def test_one_seed_never_decides(kind: str, shape: Shape) -> None:
    answer = verdict(kind, (8, 5), shape, seeds=1, noise=0.0)
    assert answer.verdict == "undecided" and "one seed decides nothing" in answer.reason


def test_a_difference_within_the_noise_is_undecided_and_tells_what_would_decide() -> None:
    answer = verdict("order", (8, 5), lambda share, n: 0.3 + 0.003 * n, seeds=3, noise=0.01)
    assert answer.verdict == "undecided"
    assert "seeds an arm would" in answer.reason


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6))
def test_without_an_effect_a_verdict_is_rare(start: int) -> None:
    """Of 200 draws from equal arms, all but a few stay undecided: a wrong verdict has a chance of 5% at most."""
    records = [run(n, start + seed, lambda share, n: 0.3, 0.02) for n in (5, 8) for seed in range(3)]
    claim = Claim("name", "text", "m", "order", (8, 5), (0.8, 1.0))
    sweep = Sweep("n", "n", "rollout.n", (Level(5, "5"), Level(8, "8")), (1,), (claim,))
    (answer,) = judge(find_ablations(records, [sweep])[0], sweep)
    DECIDED.append(answer.verdict != "undecided")
    assert sum(DECIDED) <= 8 + 0.1 * len(DECIDED)


DECIDED: list[bool] = []


def test_what_is_missing_is_told() -> None:
    assert verdict("order", (8, 4), rising, 2).reason == "no run with rollout.n = 4"
    assert verdict("order", (8, 5), rising, 2, metric="m", steps=STEPS).verdict == "supported"
    killed = verdict("order", (8, 5), rising, 2, steps=30)
    assert killed.reason == "no finished run with rollout.n = 8, 5"
    nothing = verdict("order", (8, 5), rising, 2, at=(0.5, 0.51))
    assert (nothing.verdict, nothing.reason) == ("undecided", "m has no value in that part of some run")


def test_the_projects_own_sweeps_are_judged_in_their_order() -> None:
    sweep = next(sweep for sweep in read_sweeps() if sweep.name == "rollout_n")
    metrics = {claim.metric for claim in sweep.claims}
    records = []
    for n in (8, 3, 5):
        for seed in (1, 2, 3):
            shape = run(n, seed, rising, 0.001).history
            rows = [
                (step, {"training/global_step": step, **dict.fromkeys(metrics, row["m"])})
                for step, row in shape.rows.items()
            ]
            config = {"rollout.n": n, "seed": seed}
            records.append(RunRecord(f"n{n}-{seed}", config, join([rows]), "finished", 1, STEPS))
    (ablation,) = find_ablations(records, read_sweeps())
    assert sweep_of(ablation.factors, read_sweeps()) == sweep
    assert [arm.title for arm in ablation.arms] == [level.label for level in sweep.levels]
    verdicts = {answer.claim.name: answer.verdict for answer in judge(ablation, sweep)}
    assert verdicts == {
        "more-is-better": "supported",
        "diminishing-returns": "contradicted",
        "more-is-slower": "supported",
    }
