"""pass@k of an arm, with its interval over problems and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.records.passes import Counts, Passes
from analysis.statistics.intervals import Interval, mean, mean_interval, t_quantile
from analysis.statistics.problems import over_problems
from experiments import pass_at as estimate
from experiments.errors import UserError

ANSWERS, EVALUATED, LOGGED = "validation answers", "evaluated answers", "logged metrics"


@dataclass(frozen=True)
class PassCurve:
    """pass@k at one step of an arm, for each k that its records give."""

    step: int
    by_k: dict[int, Interval]
    """k ascending. Where there is neither a second seed nor a second problem, low and high equal the value."""
    problems: int
    """How many problems it is over; 0 where only logged numbers are known."""
    seeds: int
    source: str


def of_counts(step: int, runs: Sequence[Counts], source: str, wanted: Sequence[int] | None = None) -> PassCurve | None:
    """Return pass@k of these runs over the problems that they share, for every k up to their fewest answers.

    `wanted`: only for these k. None if they share no problem.
    """
    problems = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not problems:
        return None
    most = min(run[problem][0] for run in runs for problem in problems)
    by_k = {}
    for k in wanted or range(1, most + 1):
        if k <= most:
            tables = [{problem: estimate.pass_at(*run[problem], k) for problem in problems} for run in runs]
            by_k[k] = _interval(tables)
    return PassCurve(step, by_k, len(problems), len(runs), source) if by_k else None


def _interval(runs: Sequence[Mapping[str, float]]) -> Interval:
    value = mean([mean(list(run.values())) for run in runs])
    if len(runs) == 1:
        chances = list(runs[0].values())
        return Interval(*estimate.over_problems(chances, t_quantile(max(len(chances) - 1, 1))))
    found = over_problems(value, runs) or mean_interval([mean(list(run.values())) for run in runs])
    assert found is not None
    return Interval(value, max(0.0, found.low), min(1.0, found.high))


def of_logged(step: int, runs: Sequence[Mapping[int, float]]) -> PassCurve | None:
    """Return pass@k as the trainer logged it, at the k that all runs have; its interval is over seeds alone."""
    ks = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    by_k = {}
    for k in ks:
        values = [run[k] for run in runs]
        by_k[k] = mean_interval(values) or Interval(values[0], values[0], values[0])
    return PassCurve(step, by_k, 0, len(runs), LOGGED) if by_k else None


def by_step(runs: Sequence[Passes], wanted: Sequence[int] | None = None) -> list[PassCurve]:
    """Return the curves at the steps that all runs validated, of their answers or else of what they logged."""
    if runs and all(run.validated for run in runs):
        steps = sorted(set.intersection(*(set(run.validated) for run in runs)))
        found = [of_counts(step, [run.validated[step] for run in runs], ANSWERS, wanted) for step in steps]
    else:
        steps = sorted(set.intersection(*(set(run.logged) for run in runs))) if runs else []
        found = [of_logged(step, [run.logged[step] for run in runs]) for step in steps]
    return [curve for curve in found if curve]


def base_and_trained(runs: Sequence[Passes]) -> tuple[PassCurve | None, PassCurve | None]:
    """Return pass@k of the base model and at the last step that all runs have, from the records with the most answers.

    Both are of the same kind of records. None for one that was not recorded.
    """
    steps = set.intersection(*(set(run.evaluated) for run in runs)) if runs else set()
    if 0 in steps and len(steps) > 1:
        last = max(steps)
        pair = [of_counts(step, [run.evaluated[step] for run in runs], EVALUATED) for step in (0, last)]
        return pair[0], pair[1]
    curves = by_step(runs)
    base = curves[0] if curves and curves[0].step == 0 else None
    trained = curves[-1] if curves and curves[-1].step > 0 else None
    return base, trained


def check_wanted(wanted: Sequence[int], runs: Sequence[Passes]) -> None:
    """Raise UserError if no run has as many answers to a problem as a `wanted` k."""
    counted = [n for run in runs for counts in run.validated.values() for n, _ in counts.values()]
    logged = [k for run in runs for values in run.logged.values() for k in values]
    most = max([*counted, *logged], default=1)  # one answer has a pass@1: the accuracy
    above = [k for k in wanted if k > most]
    if above:
        recorded = f"a validation problem has {most} answer{'s' * (most != 1)}"
        raise UserError(
            f"--pass-at must be at most the answers that a problem has, but is {', '.join(map(str, above))} and "
            f"{recorded}; choose a smaller k, or validate with more (actor_rollout_ref.rollout.val_kwargs.n)"
        )
