"""Runs that look as if they had been trained."""

from __future__ import annotations

import json
from typing import Any

from experiments.planning.plan import PlannedRun, freeze
from experiments.store.files import write_atomically


def pretend(run: PlannedRun, steps: int, *events: str, seconds: float = 2.0) -> None:
    """Leave what an attempt of so many steps leaves, without the training."""
    freeze(run)
    attempt = run.folder.new_attempt()
    run.folder.record("started", attempt=attempt.number, steps=steps)
    rows: list[dict[str, Any]] = [{"step": 0, "data": {"val-core/countdown/acc/mean@1": 0.1}}]
    rows += [
        {"step": step, "data": {"training/global_step": step, "perf/time_per_step": seconds}}
        for step in range(1, steps + 1)
    ]
    rows.append(
        {"step": steps, "data": {"val-core/countdown/acc/mean@1": 0.25, "val-core/countdown_greedy/acc/mean@1": 1}}
    )
    attempt.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.folder.checkpoints.mkdir(exist_ok=True)
    (run.folder.checkpoints / f"global_step_{steps}").mkdir(parents=True, exist_ok=True)
    write_atomically(run.folder.checkpoints / "latest_checkpointed_iteration.txt", str(steps))
    for event in events:
        run.folder.record(event, step=steps, kind="out of memory")
