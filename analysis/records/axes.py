"""The x axis of curves: training steps, or what the steps cost."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from analysis.records.curves import TIMES, first_curve
from analysis.records.record import RunRecord
from experiments.errors import UserError
from experiments.values import is_number

TOKENS = "perf/total_num_tokens"
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Axis:
    """A measure of how far training has come."""

    name: str
    label: str
    cost: Callable[[RunRecord], Mapping[int, float]] | None
    """Returns the cost of each trained step of a run, {} if that was not recorded; None for the steps themselves."""

    def places(self, record: RunRecord) -> dict[int, float]:
        """Return {step: how far it is along the axis} for the steps of a run, {} if no cost was recorded.

        A step that was trained twice counts once, at the cost of the later time. A step whose cost no attempt recorded
        costs the average of the others. Validation costs nothing.
        """
        rows = record.history.rows
        if self.cost is None:
            return {step: float(step) for step in rows}
        costs = self.cost(record)
        if not costs:
            return {}
        average = sum(costs.values()) / len(costs)
        known = sorted((step, cost) for step, cost in costs.items() if step > 0)
        places, spent, passed = {}, 0.0, 0
        for step in rows:
            while passed < len(known) and known[passed][0] <= step:
                spent += known[passed][1]
                passed += 1
            places[step] = spent + average * (max(0, step) - passed)
        return places


def samples(record: RunRecord) -> dict[int, float]:
    """Return {step: the responses sampled in it}, {} if the config does not say how many."""
    batch, n = record.config.get("data.train_batch_size"), record.config.get("rollout.n")
    if not is_number(batch) or not is_number(n):
        return {}
    return {step: float(batch * n) for step in record.history.trained_steps()}


def tokens(record: RunRecord) -> dict[int, float]:
    """Return {step: its tokens, of prompts and responses together}."""
    return dict(record.history.curve(TOKENS))


def active_hours(record: RunRecord) -> dict[int, float]:
    """Return {step: the hours it took}, without validation, start-up and the time between attempts."""
    return {step: seconds / SECONDS_AN_HOUR for step, seconds in first_curve(record, TIMES)}


def gpu_hours(record: RunRecord) -> dict[int, float]:
    """Return {step: the hours it took, times the devices of the run}."""
    devices = 1.0
    for key in ("trainer.nnodes", "trainer.n_gpus_per_node"):
        value = record.config.get(key, 1)
        devices *= value if is_number(value) else 1
    return {step: hours * devices for step, hours in active_hours(record).items()}


def hours_name(records: Iterable[RunRecord]) -> str:
    """Return what the runs' `gpu_hours` are hours of: CPU-hours if all of them trained on CPUs."""
    return "CPU-hours" if {record.config.get("hardware.name") for record in records} == {"cpu"} else "GPU-hours"


STEP = Axis("step", "step", None)
AXES = {
    axis.name: axis
    for axis in (
        STEP,
        Axis("samples", "responses sampled", samples),
        Axis("tokens", "tokens", tokens),
        Axis("hours", "active hours", active_hours),
        Axis("gpu_hours", "GPU-hours", gpu_hours),
    )
}


def find_axis(name: str, option: str = "--x") -> Axis:
    """Return the axis of that name, which the option gave; UserError if there is none."""
    if name not in AXES:
        near = difflib.get_close_matches(name, AXES, n=1, cutoff=0.0)[0]
        raise UserError(f"{option} must be one of {', '.join(AXES)}, but is {name!r}; did you mean {near}?")
    return AXES[name]
