"""Whatever process of a run dies: the attempt ends within seconds, its cause names what died, and it can be resumed."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.e2e.parts import SECONDS, Run, parts
from tests.e2e.training import left_behind

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
# One of each way in which a death is noticed; `python -m tests.e2e.parts` kills all of the above.
KILLED = [
    kind for kind in FAST if "client" not in kind and kind not in ("GlobalRequestLoadBalancer", "SimpleStorageUnit")
]


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run(folder / "parts")


def test_the_parts_of_a_live_run_are_these(run: Run) -> None:
    launcher = run.start()
    there = {kind for kind, _ in parts(psutil.Process(launcher.pid))}
    launcher.terminate()
    launcher.wait(60)
    assert there == set(FAST)


@pytest.mark.parametrize("kind", KILLED)
def test_a_dead_part_is_noticed_by_name(run: Run, kind: str) -> None:
    launcher = run.start()
    before = run.run.checkpoint_step()
    seconds, cause = run.lose(launcher, kind)
    assert seconds < SECONDS
    assert cause.startswith(f"failed: killed: {FAST[kind]}") and (
        kind == "ray_head" or cause.endswith("was killed by SIGKILL")
    ), cause
    assert run.run.checkpoint_step() >= before > 0
    assert left_behind(run.run, [launcher.pid]) == []


@pytest.mark.parametrize("kind", ["TaskRunner"])
def test_a_dead_part_is_noticed_where_veRL_starts_its_own_cluster(folder: Path, kind: str) -> None:
    run = Run(folder / f"plain-parts-{kind}", "hardware.fast=false")
    seconds, cause = run.lose(run.start(), kind)
    assert seconds < SECONDS
    assert cause.startswith("failed: killed: ") and kind in cause, cause
    assert left_behind(run.run) == []
