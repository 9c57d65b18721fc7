"""How sure a final value is over other problems too: validation takes a sample of problems, the same for all arms.

A mean over seeds says how the arm does on these problems. The problems that a run kept in its validation/ folder tell
how much the value would move with others. Seeds and problems are crossed: every seed answers every problem. So the
variance of the mean over both is taken apart as in a two-way analysis of variance without replication, with the degrees
of freedom of Satterthwaite (Searle, Casella and McCulloch 1992, Variance Components, sections 4.5 and 2.3).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.records.curves import GREEDY
from analysis.records.record import RunRecord
from analysis.records.rollouts import find_rollouts
from analysis.statistics.intervals import Interval, t_quantile
from experiments.values import as_float

Scores = Mapping[str, float]
"""{problem: the mean score of a run's answers}."""


def problem_scores(run: RunRecord, steps: Sequence[int], way: str = "sampled") -> tuple[dict[str, float], float]:
    """Return ({problem: the mean score of the run's answers at these steps}, the variance of a problem's mean score).

    `way`: sampled or greedy; answers of the other way are left out where the files say which is which. The variance is
    that of one problem's mean at one step. ({}, 0.0) if the run did not keep its answers at one of the steps.
    """
    kept = find_rollouts(run, "validation")
    if not steps or not set(steps) <= kept.files.keys():
        return {}, 0.0
    answers: dict[str, dict[int, list[float]]] = {}
    for step in steps:
        for row in kept.read(step):
            source = row.get("data_source")
            if isinstance(source, str) and bool(GREEDY.search(source)) != (way == "greedy"):
                continue
            score = as_float(row.get("acc", row.get("score")))
            if score is not None and math.isfinite(score):
                key = json.dumps([row.get("input"), row.get("gts")], sort_keys=True, default=str)
                answers.setdefault(key, {}).setdefault(step, []).append(score)
    means = [sum(scores) / len(scores) for by_step in answers.values() for scores in by_step.values()]
    spread = float(np.var(means, ddof=1)) if len(means) > 1 else 0.0
    together = {key: [score for scores in by_step.values() for score in scores] for key, by_step in answers.items()}
    return {key: sum(scores) / len(scores) for key, scores in together.items()}, spread


def over_problems(value: float, runs: Sequence[Scores], spread: float = 0.0) -> Interval | None:
    """Return the 95% interval of a mean over seeds and problems; None where fewer than two problems are known.

    Args:
        value: the mean, as validation recorded it.
        runs: a run's score of each problem, for each seed. Problems that some run lacks are left out.
        spread: for a single run, the variance of a problem's mean score at one step; it says nothing of other seeds.

    The interval is never narrower than that over the seeds alone.
    """
    problems = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    seeds, count = len(runs), len(problems)
    if count < 2:
        return None
    table = np.array([[run[problem] for problem in problems] for run in runs])
    if seeds == 1:
        reach = t_quantile(count - 1) * math.sqrt(max(spread, float(np.var(table, ddof=1))) / count)
        return Interval(value, value - reach, value + reach)
    by_seed, by_problem = table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_problem[None, :] + table.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (count - 1))
    of_seeds = float(np.var(by_seed, ddof=1)) / seeds
    of_problems = max(0.0, float(np.var(by_problem, ddof=1)) / count - residual / (seeds * count))
    both = of_seeds + of_problems
    if both == 0:
        return Interval(value, value, value)
    degrees = both**2 / (of_seeds**2 / (seeds - 1) + of_problems**2 / (count - 1))
    alone = t_quantile(seeds - 1) * math.sqrt(of_seeds)
    reach = max(alone, t_quantile(degrees) * math.sqrt(both))
    return Interval(value, value - reach, value + reach)
