"""Show the plan, as a table for people or as JSON for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.models import flash_attention
from experiments.models import folder as model_folder
from experiments.models import hub as hub_model
from experiments.models.memory import in_words
from experiments.planning.cost import Cost, costs
from experiments.planning.plan import LeftOut, PlannedRun, several
from experiments.store.events import Event, State
from experiments.terminal import counted, hours_text, size
from experiments.values import at


def print_plan(runs: Sequence[PlannedRun], asked: int, left_out: Sequence[LeftOut] = ()) -> None:
    """Print what will be done for each arm and what that will cost, one row per arm.

    Args:
        runs: distinct runs.
        asked: how many jobs asked for them; sweeps that share a baseline ask for it once each.
        left_out: the jobs that can't be run and that skip_invalid=true leaves out.
    """
    from experiments.terminal import console, print_table

    estimates = costs(runs)
    unit = unit_of(runs)
    arms: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        arms.setdefault(run.config["tracking"]["group"] or run.name, []).append(place)
    serving = any(run.config["sweeps"] for run in runs)
    seeds = len({str(run.config["seed"]) for run in runs})
    title = f"{counted(len(runs), 'run')}: {counted(len(arms), 'arm')}, {counted(seeds, 'seed')}"
    columns = ["arm", "seed: id", *(["sweeps"] if serving else []), "plan", "steps", f"{unit}-hours", "disk"]
    rows = [
        [
            arm,
            "\n".join(f"{runs[place].config['seed']}: {runs[place].folder.id}" for place in places),
            *(["\n".join(runs[places[0]].config["sweeps"] or ())] if serving else []),
            "\n".join(words(runs[place]) for place in places),
            "\n".join(dict.fromkeys(str(runs[place].steps) for place in places)),
            hours_of([estimates[place] for place in places]),
            size(sum(estimates[place].disk for place in places)),
        ]
        for arm, places in arms.items()
    ]
    print_table(title, columns, rows, ("disk", f"{unit}-hours", *(["sweeps"] if serving else [])))
    for line in [*skips(left_out), *summary(runs, estimates, asked)]:
        console.print(line)
    for line in remarks(runs):
        console.print(line)
    if any(run.config["model"]["name"] == "tiny" for run in runs):
        numbers = " and three small numbers" if all(run.config["task"]["name"] == "countdown" for run in runs) else ""
        console.print(f"miniature: a 0.3M-parameter model{numbers}; real veRL, real training, small task")


def skips(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a line for each problem that keeps jobs out of the plan."""
    cells: dict[str, list[str]] = {}
    for one in left_out:
        cells.setdefault("; ".join(one.problems), []).append(one.cell)
    return [f"left out: {several(some)}: {problem}" for problem, some in cells.items()]


def hours_of(estimates: Sequence[Cost]) -> str:
    """Return the device-hours of runs, e.g. "44"; "44+?" or "?" if the time of some or of all is unknown."""
    hours = sum(cost.hours for cost in estimates)
    unknown = any(cost.steps and cost.seconds_per_step is None for cost in estimates)
    return (f"{hours_text(hours)}+" if hours else "") + "?" if unknown else hours_text(hours)


def summary(runs: Sequence[PlannedRun], estimates: Sequence[Cost], asked: int) -> list[str]:
    """Return the plan's totals in sentences: what will be done, the cost and its source, what sharing saves."""
    unit = unit_of(runs)
    done = Counter(VERBS[run.action] for run in runs)
    lines = [", ".join(f"{number} {verb}" for verb, number in done.items())]
    paid = [cost for cost in estimates if cost.steps]
    if paid:
        disk = size(sum(cost.disk for cost in paid))
        known = any(cost.seconds_per_step for cost in paid)
        cost = f"about {hours_of(paid)} {unit}-hours" if known else f"{unit}-hours unknown"
        lines[0] += f"; {cost}, checkpoints up to {disk}"
        sources = dict.fromkeys(_source(run, cost) for run, cost in zip(runs, estimates, strict=True) if cost.steps)
        lines.append(f"estimate: {'; '.join(sources)}")
    if asked > len(runs):
        saved = asked - len(runs)
        # The shared run is the baseline: the run that most sweeps ask for.
        shared = max(range(len(runs)), key=lambda place: len(runs[place].config["sweeps"] or ()))
        hours = estimates[shared].hours * saved
        less = f", {hours_text(hours)} {unit}-hours" if hours else ""
        lines.append(
            f"{asked} runs were asked for, {len(runs)} of them are different: that saves {counted(saved, 'run')}{less}"
        )
    return lines


def remarks(runs: Sequence[PlannedRun]) -> list[str]:
    """Return what preflight found but accepted: a GPU's memory, a slower attention, oddities of models' folders."""
    needs: dict[str, dict[str, None]] = {}
    for run in runs:
        if run.memory is not None:
            needs.setdefault(in_words(run.memory), {})[run.config["tracking"]["group"]] = None
    several = len(needs) > 1
    lines = [f"{need} ({', '.join(arms)})" if several else need for need, arms in needs.items()]
    attention = {_attention(run) for run in runs if run.config["trainer"]["device"] != "cpu"} - {flash_attention.FLASH}
    if attention and not flash_attention.is_installed():
        lines.append(
            f"attention of the trainer: {' and '.join(sorted(attention))}, since flash-attn is not installed; slower "
            "(docs/gpu.md says how to install it)"
        )
    for path in dict.fromkeys(str(run.config["model"]["path"]) for run in runs):
        folder = hub_model.find(path)
        found = [*(model_folder.notes(folder) if folder else []), *model_folder.unchecked(path)]
        lines += [f"{path}: {note}" for note in found]
    return lines


def _attention(run: PlannedRun) -> str:
    return str(at(run.config, "actor_rollout_ref.model.override_config.attn_implementation", flash_attention.FLASH))


def plan_json(runs: Sequence[PlannedRun], asked: int, left_out: Sequence[LeftOut] = ()) -> str:
    """Return the plan as one JSON object: {"asked", "runs", "hours", "unit", "disk" (bytes), "left_out"}."""
    estimates = costs(runs)
    rows: list[dict[str, Any]] = [
        {
            "id": run.folder.id,
            "name": run.name,
            "folder": str(run.folder.path),
            "arm": run.config["tracking"]["group"],
            "seed": run.config["seed"],
            "sweeps": run.config["sweeps"] or [],
            "plan": PLANS[run.action],
            "state": run.state,
            "step": run.reached,
            "steps": run.steps,
            "seconds_per_step": cost.seconds_per_step,
            "measured_runs": cost.measured,
            "hours": cost.hours,
            "disk": cost.disk,
        }
        for run, cost in zip(runs, estimates, strict=True)
    ]
    totals = {"hours": sum(cost.hours for cost in estimates), "disk": sum(cost.disk for cost in estimates)}
    skipped = [{"overrides": one.cell, "problems": one.problems} for one in left_out]
    return json.dumps({"asked": asked, "unit": unit_of(runs), **totals, "runs": rows, "left_out": skipped}, indent=1)


PLANS = {"start": "new", "resume": "resume", "extend": "extend", "skip": "done", "wait": "wait"}
VERBS = {"start": "to start", "resume": "to resume", "extend": "to extend", "skip": "done", "wait": "under way"}


def words(run: PlannedRun) -> str:
    """Return what will be done with a run and why, e.g. "resume at step 10 (failed: out of memory)"."""
    before = ""
    if run.state == State.FAILED:
        failed: dict[str, Any] = next(
            (event for event in reversed(run.folder.events()) if event.get("event") == Event.FAILED), {}
        )
        before = f" (failed: {failed.get('kind', 'for an unknown cause')})"
    elif run.state not in (State.PLANNED, State.FINISHED, State.RUNNING):
        before = f" ({run.state})"
    elif run.state == State.FINISHED:
        before = ", since its checkpoints are gone"
    return {
        "start": f"{'again' if before else 'new'}{before}",
        "resume": f"resume at step {run.begins}{before}",
        "extend": f"extend from step {run.begins}",
        "skip": "done",
        "wait": run.state,
    }[run.action]


def unit_of(runs: Sequence[PlannedRun]) -> str:
    """Return the device that the hours are counted for: "CPU" if all runs use veRL on the CPU, else "GPU"."""
    return "CPU" if all(run.config["trainer"]["device"] == "cpu" for run in runs) else "GPU"


def _source(run: PlannedRun, cost: Cost) -> str:
    """Return in words where the estimate of a run's time comes from."""
    if cost.measured:
        return f"{cost.seconds_per_step:.3g} s a step, measured in {counted(cost.measured, 'run')} of the same kind"
    if cost.seconds_per_step is None:
        return f"hours unknown: hardware={run.config['hardware']['name']} states no seconds_per_step"
    return f"{cost.seconds_per_step:.3g} s a step, as hardware={run.config['hardware']['name']} states"
