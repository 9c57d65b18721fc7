"""Simulations: intervals hold the true value as often as they say, and equal arms look different as rarely."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.design.ablations import find_ablations
from analysis.records.curves import comparable_curves
from analysis.records.history import join
from analysis.records.record import RunRecord
from analysis.sources.run_folders import RunFolders
from analysis.statistics.claims import judge
from analysis.statistics.intervals import difference_interval, mean_interval, paired_interval
from analysis.statistics.pairing import paired
from analysis.statistics.problems import over_problems, problem_scores
from analysis.statistics.robust import interquartile_mean, probability_of_improvement
from analysis.statistics.summary import summarise
from experiments.config.sweep_files import Claim, Level, Sweep

MakeRun = Callable[..., Path]
METRIC = "val-core/countdown/acc/mean@1"


def allowed(share: float, trials: int) -> float:
    """Return the most cases that chance explains, at three standard deviations."""
    return trials * share + 3 * math.sqrt(trials * share * (1 - share))


def trained(n: int, seed: int, steps: int, every: int, draw: np.random.Generator) -> RunRecord:
    """Return a run on the one learning curve that all arms have: a seed's own height and pace, and validation noise."""
    height, pace = draw.normal(0.4, 0.03), draw.normal(25, 3)
    rows = []
    for step in range(0, steps + 1, every):
        value = height / (1 + math.exp(-(step - pace) / 10)) + draw.normal(0, 0.02)
        rows.append((step, {METRIC: value} | ({"training/global_step": step} if step else {})))
    # The seeds of the two arms are drawn apart, so that nothing pairs them.
    config = {"rollout.n": n, "seed": seed + 100 * n, "data.seed": seed + 100 * n}
    return RunRecord(f"n{n}-{seed}", config, join([rows]), "finished", 1, steps)


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(("one", "other"), [((60, 5), (100, 5)), ((60, 5), (60, 20))])
def test_arms_of_other_lengths_and_cadences_differ_as_rarely_as_equal_arms_should(
    seeds: int, one: tuple[int, int], other: tuple[int, int]
) -> None:
    """Compared at their own ends and steps, the same arms looked different in up to 93% of these sweeps."""
    draw, trials = np.random.default_rng(seeds), 150
    claims = tuple(
        Claim(kind, "text", METRIC, kind, (8, 5), at)
        for kind, at in (("order", (0.8, 1.0)), ("rises_faster", (0.0, 0.5)))
    )
    sweep = Sweep("n", "n", "rollout.n", (Level(5, "5"), Level(8, "8")), (1,), claims)
    final = area = 0
    decided = [0, 0]
    for _ in range(trials):
        records = [trained(n, s, *shape, draw) for n, shape in ((5, one), (8, other)) for s in range(seeds)]
        (ablation,) = find_ablations(records)
        arms = summarise(ablation, comparable_curves(records)[0]).arms
        effect, areas = arms[1].effect, difference_interval(arms[1].area, arms[0].area)
        assert effect and areas
        final += not effect.low <= 0 <= effect.high
        area += not areas.low <= 0 <= areas.high
        for place, verdict in enumerate(judge(ablation, sweep)):
            decided[place] += verdict.verdict != "undecided"
    for found in (final, area, *decided):
        assert found <= allowed(0.05, trials)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_pairs_of_seeds_hold_their_level_and_see_more_where_seeds_matter(seeds: int) -> None:
    draw, trials = np.random.default_rng(seeds), 1000
    missed = narrower = 0
    for _ in range(trials):
        shared = draw.normal(0, 1, seeds)
        ones, others = (list(shared + draw.normal(0, 0.3, seeds)) for _ in range(2))
        pairs, apart = paired_interval(ones, others), difference_interval(ones, others)
        assert pairs and apart
        theirs = stats.ttest_rel(ones, others).confidence_interval(0.95)
        assert (pairs.low, pairs.high) == pytest.approx((theirs.low, theirs.high))
        missed += not pairs.low <= 0 <= pairs.high
        narrower += pairs.high - pairs.low < apart.high - apart.low
    assert missed <= allowed(0.05, trials) and narrower > trials / 2


def test_seeds_make_pairs_only_where_both_saw_the_same_data_in_the_same_order() -> None:
    def runs(*seeds: int, **more: object) -> list[RunRecord]:
        return [RunRecord(f"r{s}", {"seed": s, "data.seed": s, **more}, join([]), "finished", 1, 1) for s in seeds]

    assert paired(runs(1, 2), runs(1, 2))
    assert not paired(runs(1, 2), runs(1, 3)) and not paired(runs(1, 2), runs(1, 2, 3)) and not paired(runs(1), runs(1))
    assert not paired(runs(1, 2), runs(1, 2, **{"data.train_batch_size": 8}))
    assert not paired(runs(1, 2), runs(1, 2, **{"task.digest": "other"}))


@pytest.mark.parametrize("seeds", [1, 3, 5, 8])
def test_the_interval_over_problems_holds_the_accuracy_on_all_problems(seeds: int) -> None:
    """Problems of different difficulty, seeds of different strength; each sweep draws both anew."""
    draw, trials, problems = np.random.default_rng(seeds), 600, 64
    whole = draw.normal(0, 1.5, 20_000)
    missed = fixed = 0
    for _ in range(trials):
        difficulty, strength = draw.choice(whole, problems), draw.normal(0, 0.4, seeds)
        answers = draw.random((seeds, problems)) < 1 / (1 + np.exp(difficulty[None, :] - strength[:, None]))
        scores = [{str(k): float(x) for k, x in enumerate(row)} for row in answers]
        # One run tells of itself; several tell of all seeds that might have been drawn.
        meant = strength if seeds == 1 else np.random.default_rng(0).normal(0, 0.4, 200)
        truth = float(np.mean(1 / (1 + np.exp(whole[:2000, None] - meant[None, :]))))
        found = over_problems(float(answers.mean()), scores)
        assert found is not None
        missed += not found.low <= truth <= found.high
        alone = mean_interval(list(map(float, answers.mean(axis=1))))
        fixed += alone is not None and not alone.low <= truth <= alone.high
    assert missed <= allowed(0.06, trials)
    if seeds >= 5:
        assert fixed > allowed(0.05, trials), "the interval over seeds alone leaves the problems' chance out"


def test_answers_are_read_from_the_runs_folder(make: MakeRun, runs: Path) -> None:
    for temperature in (0.6, 1.0):
        path = make(temperature=temperature)
        folder = path / "attempts" / "1" / "validation"
        folder.mkdir()
        for step in (50, 60):
            rows = [{"input": f"p{k}", "output": "x", "gts": {"target": k}, "acc": float(k < 10)} for k in range(30)]
            (folder / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = RunFolders(runs).read()[0]
    scores, spread = problem_scores(records[0], [50, 60])
    assert len(scores) == 30 and spread == pytest.approx(np.var([1.0] * 20 + [0.0] * 40, ddof=1))
    assert problem_scores(records[0], [40, 50]) == ({}, 0.0)
    (ablation,) = find_ablations(records)
    summary = summarise(ablation, comparable_curves(records)[0])
    head, one, _ = summary.rows()
    assert head[-1] == "final, over seeds and problems" and "±" in one[-1]
    (both,) = {arm.over_problems.high - arm.over_problems.value for arm in summary.arms if arm.over_problems}
    alone = np.var([1.0] * 10 + [0.0] * 20, ddof=1)
    assert both == pytest.approx(stats.t.ppf(0.975, 29) * math.sqrt(alone / 30))


def test_sampled_and_greedy_answers_are_told_apart_where_the_files_say_which_is_which(
    make: MakeRun, runs: Path
) -> None:
    folder = make() / "attempts" / "1" / "validation"
    folder.mkdir()
    problems = [{"input": f"p{k}", "output": "x", "gts": {"target": k}} for k in range(20)]
    sampled = [{**p, "acc": float(k < 2), "data_source": "countdown"} for p in problems for k in range(4)]
    greedy = [{**p, "acc": 1.0, "data_source": "countdown_greedy"} for p in problems]
    (folder / "60.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sampled + greedy))
    (record,) = RunFolders(runs).read()[0]
    scores, spread = problem_scores(record, [60])
    assert set(scores.values()) == {0.5} and len(scores) == 20
    assert spread == 0, "four answers to a problem are one mean: they are no more problems"
    scores, _ = problem_scores(record, [60], "greedy")
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("seeds", [4, 6, 8, 12])
def test_the_interquartile_mean_and_the_probability_of_improvement_hold(seeds: int) -> None:
    draw, trials = np.random.default_rng(seeds), 600
    missed = wrong = 0
    truth = float(stats.norm.cdf(0.5 / math.sqrt(2)))
    for _ in range(trials):
        ones, others = list(draw.normal(0.5, 1, seeds)), list(draw.normal(0, 1, seeds))
        middle, better = interquartile_mean(ones), probability_of_improvement(ones, others)
        assert middle and better
        assert middle.value == pytest.approx(stats.trim_mean(ones, 0.25))
        assert better.value == pytest.approx(stats.mannwhitneyu(ones, others).statistic / seeds**2)
        missed += not middle.low <= 0.5 <= middle.high
        wrong += not better.low <= truth <= better.high
    assert missed <= allowed(0.06, trials) and wrong <= allowed(0.08, trials)
    assert interquartile_mean([1.0]) is None and probability_of_improvement([1.0], [2.0, 3.0]) is None
