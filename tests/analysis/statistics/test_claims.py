"""Verdicts: on made-up arms whose truth is known."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.design.ablations import find_ablations
from analysis.design.sweeps import read_sweeps, sweep_of
from analysis.records.history import join
from analysis.records.record import RunRecord
from analysis.statistics.claims import Verdict, judge
from analysis.statistics.comparisons import COMPARISONS
from experiments.config.sweep_files import KINDS, Claim, Level, Sweep, load_sweeps
from experiments.errors import UserError

Shape = Callable[[float, int], float]
STEPS = 40


def run(n: int, seed: int, shape: Shape, noise: float, steps: int = STEPS, metric: str = "m") -> RunRecord:
    draw = random.Random(f"{n} {seed}")
    own = draw.gauss(0, noise)
    rows = [(s, {"training/global_step": s, metric: shape(s / STEPS, n) + own}) for s in range(1, steps + 1)]
    config = {"rollout.n": n, "seed": seed, "algorithm": "grpo"}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished" if steps == STEPS else "killed", 1, STEPS)


def verdict(kind: str, levels: tuple[Any, ...], shape: Shape, seeds: int, noise: float = 0.01, **more: Any) -> Verdict:
    at, or_equal, margin = more.pop("at", (0.8, 1.0)), more.pop("or_equal", ()), more.pop("margin", None)
    claim = Claim("name", "text", more.pop("metric", "m"), kind, levels, at, or_equal, margin)
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
        ("minimum_inside", (5,), rising, "contradicted"),
        ("minimum_inside", (5,), lambda share, n: 50 - 30 * share, "contradicted"),
        ("rises_faster", (8, 5, 3), rising, "supported"),
        ("rises_faster", (3, 5), rising, "contradicted"),
        ("rises_faster", (3, 5), lambda share, n: n + share, "undecided"),
        ("settles", (3, 8), saturating, "supported"),
        ("settles", (8,), rising, "contradicted"),
        ("settles", (8,), lambda share, n: 50 - 30 * share, "contradicted"),
        ("slows", (3, 8), lambda share, n: math.sqrt(share) * n, "supported"),
        ("slows", (3,), lambda share, n: share**2 * n, "contradicted"),
        ("close", (8, 5), saturating, "supported"),
        ("close", (5, 3), saturating, "contradicted"),
    ],
)
def test_three_seeds_decide_what_is_plain(kind: str, levels: tuple[int, ...], shape: Shape, expected: str) -> None:
    answer = verdict(kind, levels, shape, seeds=3, noise=0.005)
    assert answer.verdict == expected, answer.reason
    assert "3" in answer.reason and "[" in answer.reason, "it tells the interval and the seeds"


def test_who_lags_and_catches_up_does_not_rise_faster() -> None:
    """Both go from 0 to 1 in the first half; 8 begins later, so that a line through it is steeper."""
    answer = verdict("rises_faster", (8, 5), lambda s, n: (2 * s) ** (3 if n == 8 else 0.5), seeds=3, at=(0.0, 0.5))
    assert answer.verdict == "contradicted"


def test_at_least_allows_a_twentieth_less_and_no_more() -> None:
    """8 >= 5 > 3 holds where 8 and 5 are alike, and where 8 is a little less; not where it is less by a tenth."""
    either = {"levels": (8, 5, 3), "seeds": 3, "noise": 0.001, "or_equal": (True, False)}
    assert verdict("order", shape=saturating, **either).verdict == "supported"
    assert verdict("order", shape=lambda _, n: {3: 0.3, 5: 0.5, 8: 0.49}[n], **either).verdict == "supported"
    assert verdict("order", shape=lambda _, n: {3: 0.3, 5: 0.5, 8: 0.44}[n], **either).verdict == "contradicted"
    strict = {**either, "or_equal": ()}
    assert verdict("order", shape=lambda _, n: {3: 0.3, 5: 0.5, 8: 0.49}[n], **strict).verdict == "contradicted"


@pytest.mark.parametrize(
    ("order", "read"),
    [
        ([8, ">=", 5, ">", 3], ((8, 5, 3), (True, False))),
        ([8, 5, 3], ((8, 5, 3), ())),
        ([8, ">=", 5, 3], None),
        ([">=", 8, 5], None),
    ],
)
def test_a_sweep_file_says_at_least_between_levels(tmp_path: Path, order: list[Any], read: Any) -> None:
    claim = {"name": "c", "text": "t", "metric": "m", "order": order}
    sweep = {"factor": "rollout.n", "levels": [{"value": n} for n in (3, 5, 8)], "claims": [claim]}
    (tmp_path / "n.yaml").write_text(yaml.safe_dump(sweep))
    if read is None:
        with pytest.raises(UserError, match="> and >= must stand between the levels of an order"):
            load_sweeps(["n"], tmp_path)
    else:
        ((found,),) = (sweep.claims for sweep in load_sweeps(["n"], tmp_path))
        assert (found.levels, found.or_equal) == read


def test_a_fall_within_the_first_tenth_is_a_fall() -> None:
    def early(share: float, n: int) -> float:
        return 50 - 300 * share if share < 0.05 else 35 + 20 * share

    assert verdict("minimum_inside", (5, 8), early, seeds=3, noise=0.3).verdict == "supported"


def test_a_tenth_that_one_run_lacks_is_left_out_of_all() -> None:
    """Two runs that dip in the middle; the first validation of one is missing: its tenths are not shifted by it."""
    claim = Claim("name", "text", "m", "minimum_inside", (5,), (0.0, 1.0))
    whole = [(step, 10.0 - step if step <= 50 else step - 90.0) for step in range(5, 105, 10)]
    low = lambda step: [(s, -100.0 if s == step else y) for s, y in whole]  # noqa: E731
    fall, rise = COMPARISONS["minimum_inside"](claim, {5: [low(45), low(45)[1:]]}, 100, lambda *_: False)
    second = dict(whole)
    assert fall.ones == (second[15] + 100, second[15] + 100) and rise.ones == (second[95] + 100, second[95] + 100)


def test_a_claim_of_sampled_validation_is_judged_by_the_greedy_where_there_is_no_other() -> None:
    """veRL 0.1 validated greedily, and logged the mean score."""
    metric = "val/test_score/countdown"
    records = []
    for n in (3, 5, 8):
        for seed in (1, 2, 3):
            rows = [(s, {"actor/pg_loss": 1.0, "critic/score/min": 0.1, metric: 0.3 + n / 50}) for s in range(1, 41)]
            records.append(RunRecord(f"n{n}-{seed}", {"rollout.n": n, "seed": seed}, join([rows]), "finished", 1, 40))
    claim = Claim("name", "text", "val-core/countdown/acc/mean@1", "order", (8, 5, 3), (0.8, 1.0))
    sweep = Sweep("n", "n", "rollout.n", tuple(Level(n, f"n = {n}") for n in (3, 5, 8)), (1,), (claim,))
    (ablation,) = find_ablations(records, [sweep])
    (answer,) = judge(ablation, sweep)
    assert answer.verdict == "supported" and f"+{3 / 50 / 0.9:.4f}" in answer.reason


KINDS_TESTED = ["order", "rises_faster", "rises", "falls", "never_rises", "close", "slows", "settles", "minimum_inside"]


def test_no_kind_goes_untested() -> None:
    assert sorted(KINDS_TESTED) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS_TESTED)
@pytest.mark.parametrize("shape", [rising, dipping, saturating])
def test_one_seed_never_decides(kind: str, shape: Shape) -> None:
    answer = verdict(kind, (8, 5), shape, seeds=1, noise=0.0)
    assert answer.verdict == "undecided" and "one seed decides nothing" in answer.reason


def test_a_difference_within_the_noise_is_undecided_and_tells_how_many_seeds_to_plan() -> None:
    """The number is that of a test's planned power for the smallest effect that matters, not for the effect seen."""

    def level(share: float, n: int) -> float:
        return 0.3 + 0.003 * n

    answer = verdict("order", (8, 5), level, seeds=3, noise=0.02)
    assert answer.verdict == "undecided" and "adding seeds until it is decided makes" in answer.reason
    planned = r"a sweep planned with (\d+) seeds an arm would show an effect of (\S+) in 80% of cases"
    found = re.search(planned, answer.reason)
    assert found
    (comparison,) = answer.comparisons
    assert comparison.pairs and comparison.worth == pytest.approx(0.05 * np.mean(comparison.others))
    assert float(found[2]) == float(f"{comparison.worth:.3g}")
    spread = np.std(np.subtract(comparison.ones, comparison.others), ddof=1)

    def power(seeds: int) -> float:
        """The power of a paired t-test of so many seeds, by scipy's noncentral t."""
        shift = comparison.worth / (spread / math.sqrt(seeds))
        return float(stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, shift))

    assert power(int(found[1])) >= 0.8 > power(int(found[1]) - 1)


@pytest.mark.parametrize("gap", [0.0, 0.01, 0.03])
def test_close_is_a_test_of_equivalence_with_an_absolute_margin(gap: float) -> None:
    """Two one-sided tests: supported if the 95% interval of the difference lies within the margin."""
    for seed in range(6):
        answer = verdict(
            "close", (8, 5), lambda share, n: 0.4 + gap * (n == 8), seeds=4, noise=0.004 * (seed + 1), margin=0.02
        )
        ones, others = answer.comparisons[1].others, answer.comparisons[1].ones
        assert ones is not None
        difference = stats.ttest_rel(np.array(ones), np.array(others) - 0.02)
        low, high = difference.confidence_interval(0.95)
        assert (answer.verdict == "supported") == (low > -0.02 and high < 0.02), (low, high)
        if answer.verdict == "contradicted":
            assert low > 0.02 or high < -0.02
        assert "within 0.02 it counts as none" in answer.reason


def test_a_dip_that_counts_as_none_is_never_supported_whatever_the_seeds() -> None:
    """A fall of 3% is shown beyond doubt by 50 seeds, but it is below the margin of 5%: so it is no dip."""
    small = verdict("minimum_inside", (5,), lambda share, n: 50 - 1.5 * math.sin(math.pi * share), 50, noise=0.01)
    assert small.verdict == "contradicted"
    large = verdict("minimum_inside", (5,), lambda share, n: 50 - 5 * math.sin(math.pi * share), 50, noise=0.01)
    assert large.verdict == "supported"


def test_holms_correction_is_over_all_claims_that_were_tested_together() -> None:
    from analysis.statistics.claims import corrected

    claim = Claim("name", "text", "m", "order", (8, 5), (0.8, 1.0))
    ps = [0.001, 0.02, 0.03, 0.2, None, 0.012]
    given_ = [Verdict(claim, "supported" if p and p < 0.05 else "undecided", (), "", p, "supported") for p in ps]
    (first, second) = corrected([given_[:3], given_[3:]])
    found = [verdict.corrected for verdict in (*first, *second)]
    # Of five tested: 0.001 * 5, 0.012 * 4 = 0.048, 0.02 * 3 = 0.06: from there on nothing is decided.
    assert found == ["supported", "undecided", "undecided", "undecided", "undecided", "supported"]
    assert [verdict.verdict for verdict in first] == ["supported"] * 3, "the verdicts by themselves stay"


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_a_family_of_true_nulls_rarely_has_a_corrected_verdict(seeds: int) -> None:
    from analysis.statistics.claims import corrected, decide
    from analysis.statistics.comparisons import Comparison

    draw = np.random.default_rng(seeds)
    claim = Claim("name", "text", "m", "order", (8, 5), (0.8, 1.0))
    alone = together = 0
    for _ in range(400):
        family = [
            decide(claim, [Comparison("a - b", tuple(draw.normal(size=seeds)), tuple(draw.normal(size=seeds)), pairs)])
            for pairs in [True, False] * 5
        ]
        alone += any(verdict.verdict != "undecided" for verdict in family)
        together += any(verdict.corrected != "undecided" for verdict in corrected([family])[0])
    assert alone > 100, "without a correction every fourth study has a false verdict"
    assert together <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


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
    assert (nothing.verdict, nothing.reason) == ("undecided", "some run has no value of m in that part")


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
    assert sweep_of(ablation.factors, [arm.runs for arm in ablation.arms], read_sweeps()) == sweep
    assert [arm.title for arm in ablation.arms] == [level.label for level in sweep.levels]
    verdicts = {answer.claim.name: answer.verdict for answer in judge(ablation, sweep)}
    assert verdicts == {
        "more-is-better": "supported",
        "diminishing-returns": "contradicted",
        "more-is-slower": "supported",
    }


LISTED = """
title: Two pairs
arms:
  - {label: small, rollout.n: 3, kl.coef: 0.01}
  - {label: large, rollout.n: 8, kl.coef: 0.001}
  - {label: ppo, algorithm: ppo, rollout.n: 1, kl.coef: 0.001}
seeds: [1, 2, 3]
claims:
  - {name: large-wins, text: It wins., metric: m, at: [0.8, 1.0], order: [large, small]}
  - {name: ppo-wins, text: It wins., metric: m, at: [0.8, 1.0], order: [ppo, large]}
"""


def test_arms_that_set_several_keys_have_their_claims_judged(tmp_path: Path) -> None:
    (tmp_path / "pairs.yaml").write_text(LISTED)
    (sweep,) = load_sweeps(["pairs"], tmp_path)
    arms = [("grpo", 3, 0.01, 0.1), ("grpo", 8, 0.001, 0.4), ("ppo", 1, 0.001, 0.2)]
    records = []
    for estimator, n, kl, level in arms:
        for seed in (1, 2, 3):
            rows = [(step, {"training/global_step": step, "m": level + 0.01 * seed}) for step in range(1, STEPS + 1)]
            config = {"rollout.n": n, "kl.coef": kl, "algorithm": estimator, "seed": seed}
            records.append(RunRecord(f"{estimator}{n}-{seed}", config, join([rows]), "finished", 1, STEPS))
    (ablation,) = find_ablations(records, [sweep])
    assert ablation.sweep == sweep and [arm.title for arm in ablation.arms] == ["small", "large", "ppo"]
    verdicts = {answer.claim.name: answer.verdict for answer in judge(ablation, sweep)}
    assert verdicts == {"large-wins": "supported", "ppo-wins": "contradicted"}
