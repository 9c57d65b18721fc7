"""What the numbers of a comparison are of. Tables, figures and claims use the same runs, steps and windows.

Arms may differ in length and in how often they were validated. They are compared up to a step that all of them reached,
and at the steps at which all of their runs recorded a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analysis.design.ablations import Ablation
from analysis.design.arms import Arm
from analysis.records.history import Curve
from analysis.records.record import RunRecord, ranges_text
from analysis.statistics.equal_cost import EqualCost
from experiments.errors import UserError
from experiments.store.events import State
from experiments.values import is_whole

At = tuple[float, float]
"""A part of the training, as shares of its steps: from, to."""
NO_STEP = "no common step"
FINAL: At = (0.8, 1.0)
"""The part whose mean is the final value: the last fifth."""


@dataclass(frozen=True)
class Estimand:
    """The runs and steps of an ablation that count."""

    until: int
    """The last step that counts: each arm has runs that reached it. 0: no run counts."""
    counted: Mapping[str, tuple[RunRecord, ...]]
    """{arm's label: its runs that reached this step}."""
    short: Sequence[tuple[RunRecord, str]] = ()
    """(complete run that ended before this step, what is said of it)."""
    beyond: bool = False
    """Whether some run went further than this step."""
    last: int | None = None
    """Of how many last validations the final value is the mean; None: of those in the last fifth of the steps."""
    cost: EqualCost | None = None
    """What a step stands for, if arms are compared at equal cost."""

    def runs(self) -> list[RunRecord]:
        return [run for runs in self.counted.values() for run in runs]

    def values(self, curves: Mapping[str, Curve], validation: bool) -> Common:
        """Return the values of a metric that count. `curves`: {run's name: its curve}, at least for the runs counted.

        A run that recorded nothing of the metric is passed over: it leaves the other runs their steps.
        """
        counted = [run for run in self.runs() if curves.get(run.name)]
        known = {run.name: curves[run.name] for run in counted}
        others = sorted({step for curve in known.values() for step, _ in curve})
        lost = {run.name: self._lost(run, known[run.name], others, validation) for run in counted}
        there = [{step for step, _ in curve} | lost[name] for name, curve in known.items()]
        steps = sorted(step for step in set.intersection(*there) if step <= self.until) if there else []
        wanted = set(steps)
        cut = {name: [point for point in curve if point[0] in wanted] for name, curve in known.items()}
        return Common(self.until, steps, cut, {name: lost[name] & wanted for name in known}, self.last, self.cost)

    def _lost(self, run: RunRecord, curve: Curve, others: Sequence[int], validation: bool) -> set[int]:
        """Return the steps of which the run must have had a value that was not found.

        `others`: the steps at which any run has one. The run lost those whose rows are missing, or at which its config
        says that it validated. A run that finished validated at its end.
        """
        every = run.config.get("trainer.test_freq") if validation else None
        if every is None or not is_whole(every, 1):
            gaps = run.missing()
            return {step for step in others if any(first <= step <= end for first, end in gaps)}
        expected = {step for step in others if 0 < step <= run.end and step % every == 0}
        if run.state == State.FINISHED and run.finished_step == run.end:
            expected.add(run.end)
        return {step for step in expected if step <= self.until} - {step for step, _ in curve}

    def damaged(self, arm: Arm) -> str:
        """Return which run of an arm finished but has rows missing up to its end, "" if none has."""
        for run in arm.runs:
            if run.state == State.FINISHED and not run.complete and run.planned_steps:
                return f"{arm.run_label(run)} finished, but no rows behind step {run.end} were found"
        return ""

    def note(self) -> str:
        """Return what must be said of the steps; "" if all runs have the same and nothing is left out."""
        parts = [f"Numbers and claims are of the steps up to {self.until} (dotted line)."] if self.beyond else []
        if self.short:
            names = ", ".join(run.name for run, _ in self.short[:3]) + (", ..." if len(self.short) > 3 else "")
            least = min(run.end for run, _ in self.short)
            parts.append(f"Too short to count: {names}; --until {least} counts all.")
        return " ".join(parts)


@dataclass(frozen=True)
class Common:
    """The values of one metric at the steps that all runs have in common."""

    until: int
    steps: Sequence[int]
    curves: Mapping[str, Curve]
    """{run: its points at these steps}; a point that the run lost is not there."""
    lost: Mapping[str, set[int]] = field(default_factory=dict)
    last: int | None = None
    cost: EqualCost | None = None

    def window(self, at: At) -> At:
        """Return a part of the training so that it holds a step: as it is, or its end drawn out to the last steps.

        If the user chose of how many last values the final value is, this decides what the last fifth is.
        """
        trained = [step for step in self.steps if step > 0]
        if not trained or not self.until:
            return at
        if at == FINAL and self.last:
            return ((trained[-self.last :][0] - 0.5) / self.until, 1.0)
        if at[1] == 1.0 and trained[-1] <= at[0] * self.until:
            return ((trained[-1] - 0.5) / self.until, 1.0)
        return at

    def inside(self, at: At) -> list[int]:
        """Return the common steps in a part of the training; step 0 is in it if the part begins with the training."""
        start, end = (share * self.until for share in self.window(at))
        return [step for step in self.steps if start < step <= end or (start == 0 == step)]

    def lost_in(self, names: Sequence[str], at: At) -> dict[str, list[int]]:
        """Return {run: the steps in a part of the training whose values it lost}, of the runs that lost any."""
        wanted = set(self.inside(at))
        return {name: sorted(lost) for name in names if (lost := self.lost.get(name, set()) & wanted)}

    def describe(self, at: At) -> str:
        """Return e.g. "steps 50-60", or the cost that they stand for; NO_STEP if no step is common."""
        steps = self.inside(at)
        return self.cost.text(steps[0], steps[-1]) if self.cost and steps else steps_text(steps)


def steps_text(steps: Sequence[int]) -> str:
    """Return the range of steps as text."""
    return ranges_text([(steps[0], steps[-1])]) if steps else NO_STEP


def find_estimand(
    ablation: Ablation, until: int | None = None, last: int | None = None, cost: EqualCost | None = None
) -> Estimand:
    """Return what counts in an ablation; `cost`: what a step stands for, if its runs are read at equal cost.

    Without `until`, the arm whose runs are the shortest sets the last step: the arm's length is the step that more than
    half of its complete runs reach, so that one short run does not cut all others. With `until`, all runs count that
    reached this step, however they ended.
    """
    if until is not None:
        counted = {arm.label: tuple(run for run in arm.runs if run.end >= until) for arm in ablation.arms}
        beyond = any(run.end > until for runs in counted.values() for run in runs)
        short = [
            (run, f"ended at step {run.end}, before --until {until}") for run in ablation.runs if 0 < run.end < until
        ]
        return Estimand(until, counted, [(run, why) for run, why in short if run.complete], beyond, last, cost)
    lengths = [sorted((run.end for run in arm.complete), reverse=True) for arm in ablation.arms if arm.complete]
    step = min((ends[len(ends) // 2] for ends in lengths), default=0)
    counted = {arm.label: tuple(run for run in arm.complete if run.end >= step) for arm in ablation.arms}
    complete = [run for arm in ablation.arms for run in arm.complete]
    short = [(run, f"finished at step {run.end}, before the common step {step}") for run in complete if run.end < step]
    return Estimand(step, counted, short, any(run.end > step for run in complete), last, cost)


def check_until(estimands: Sequence[Estimand], ablations: Sequence[Ablation], until: int | None) -> None:
    """Raise UserError if no run reached the step of `--until`."""
    furthest = max((run.end for ablation in ablations for run in ablation.runs), default=0)
    if until is not None and not any(estimand.runs() for estimand in estimands):
        raise UserError(
            f"--until must be a step that runs reached, but is {until}; the furthest run came to {furthest}"
        )
