"""Whatever process of a run dies: the attempt ends within seconds, its cause names what died, and the run goes on."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.kills import trained_steps
from tests.e2e.parts import SECONDS, Run

# What a live run on the fast path has, and how the cause names it.
FAST = {
    "attempt": "the attempt's process was killed by SIGKILL",
    "attempt's client": "the attempt's process was killed by SIGKILL",
    "fork_server": "the fork server of the launch (process ",
    "gcs_server": "Ray's gcs_server (process ",
    "GlobalRequestLoadBalancer": "the actor GlobalRequestLoadBalancer (process ",
    "HFRolloutServer": "the actor HFRolloutServer hf_rollout_server_0 (process ",
    "ray_head": "the Ray head of the launch (process ",
    "raylet": "Ray's raylet (process ",
    "SimpleStorageUnit": "the actor SimpleStorageUnit TransferQueueStorageUnit#0 (process ",
    "TransferQueueController": "the actor TransferQueueController (process ",
    "worker's client": "the actor ",  # which of them is chance
    "WorkerDict": "the actor ",  # veRL gives its workers a name that is drawn
}


def test_each_dead_part_is_noticed_by_name_and_the_run_goes_on(folder: Path) -> None:
    run = Run(folder / "parts")
    launcher = run.start()
    causes = {}
    for kind, seconds, cause in run.lose_each(launcher):
        assert seconds < SECONDS, f"{kind}: {seconds} s, {cause}"
        causes[kind] = cause
    run.until_recorded(len(FAST) + 1)
    assert run.end(launcher) == []
    assert causes.keys() == FAST.keys(), "these are the parts of a live run"
    named = {
        kind: cause
        for kind, cause in causes.items()
        if cause.startswith(f"failed: killed: {FAST[kind]}")
        and (kind == "ray_head" or cause.endswith("was killed by SIGKILL"))
    }
    assert named == causes
    steps = trained_steps(run.run)
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > len(FAST), "each step counts once"
