"""Real veRL in SLURM jobs: two attempts on one node at the same time; SLURM warns one and cancels the other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis.sources.wandb_log import WandbLog, read_log
from experiments.launchers.slurm.run_job import run_job
from experiments.launchers.slurm.settle import settle
from experiments.processes import reaping
from experiments.store.rundir import RunDir, find_runs
from tests.e2e.training import clean_environment, left_behind
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import start_requeued, use

STEPS = 6
# Countdown's own reward; in a training it waits, once, until both runs have come so far.
REWARD = """
import os, time
from pathlib import Path
from experiments.tasks.countdown.reward import compute_score as score

def compute_score(*args, **kwargs):
    if "VERL_FILE_LOGGER_PATH" in os.environ:
        meeting = Path("MEETING")
        (meeting / os.environ["WANDB_RUN_ID"]).touch()
        while len(list(meeting.iterdir())) < 2:
            time.sleep(0.1)
    return score(*args, **kwargs)
"""


@pytest.fixture
def one_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster(nodes=1, memory_mb=24_000, settings={"KillWait": 30}) as cluster:
        use(cluster, monkeypatch)
        yield cluster


def until(true: Callable[[], object], what: str, seconds: float = 900.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


def test_two_trainings_on_one_node_one_of_them_warned_and_the_other_cancelled(
    one_node: Cluster, tmp_path: Path
) -> None:
    reward, meeting = tmp_path / "reward.py", tmp_path / "meeting"
    meeting.mkdir()
    reward.write_text(REWARD.replace("MEETING", str(meeting)))
    overrides = [
        "experiment=smoke",
        f"reward.custom_reward_function.path={reward}",
        "hydra/launcher=slurm",
        "seed=1,2",
        f"trainer.total_training_steps={STEPS}",
        "trainer.save_freq=100",
        "trainer.test_freq=100",
        f"runs_dir={tmp_path / 'runs'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    submitted = subprocess.run(
        [sys.executable, "-m", "experiments.run", "-m", *overrides],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**clean_environment(), **one_node.environment},
    )
    assert submitted.returncode == 0, submitted.stderr
    runs = find_runs(tmp_path / "runs")
    until(
        lambda: sorted(run.last_step() for run in runs) >= [1, 2] or "failed" in states(*runs), "a step and two steps"
    )
    other, warned = sorted(runs, key=RunDir.last_step)  # warn the run that is ahead: then both still run for a while
    assert states(warned, other) == ["running", "running"], [run.events()[-1] for run in (warned, other)]
    clusters = [ray_clusters(run) for run in (warned, other)]
    assert [len(own) for own in clusters] == [1, 1] and clusters[0] != clusters[1], "each a Ray of its own, at once"
    job, beside = (found.id for run in (warned, other) if (found := run_job(run.events())))
    assert one_node.states()[beside] == "RUNNING", "both train at the same time"
    one_node.run("scancel", beside)
    one_node.run("scancel", "--signal=USR1", "--batch", job)
    until(lambda: one_node.states()[job] == "PENDING", "saved and requeued")
    saved = warned.checkpoint_step()
    assert saved == warned.last_step() >= 2
    assert wandb_log(warned).rows[-1][0] == saved, "W&B's last step is on disk"
    start_requeued(one_node, job)
    until(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(one_node.states().values()), "both over")
    assert one_node.states() == {job: "COMPLETED", beside: "CANCELLED"}
    assert settle([warned, other]) is None
    assert states(warned, other) == ["finished", "cancelled"], [run.events()[-1] for run in (warned, other)]
    assert trained_steps(warned) == list(range(1, STEPS + 1)), "no step is lost, none is trained twice"
    for run in (warned, other):
        assert not left_behind(run)
        assert not list(reaping.SCRATCH.glob(f"{reaping.scratch_prefix(run.path)}*"))
    assert [len(run.attempts()) for run in (warned, other)] == [2, 1]
    logs = [wandb_log(warned, attempt) for attempt in (0, 1)]
    assert {log.run_id for log in logs} == {warned.id}, "one run for W&B, by what its own files say"
    steps = [[step for step, row in log.rows if "training/global_step" in row] for log in logs]
    assert steps[0] + steps[1] == list(range(1, STEPS + 1))


def trained_steps(run: RunDir) -> list[int]:
    rows = [json.loads(line) for attempt in run.attempts() for line in attempt.metrics.read_text().splitlines()]
    return [row["step"] for row in rows if "training/global_step" in row["data"]]


def states(*runs: RunDir) -> list[str]:
    return [run.state() for run in runs]


def ray_clusters(run: RunDir) -> set[int]:
    """Return the process ids of the living heads of a run's Ray clusters."""
    return {process.pid for process in reaping.of_run(run.path) if process.name() == "gcs_server"}


def wandb_log(run: RunDir, attempt: int = 0) -> WandbLog:
    (file,) = run.attempts()[attempt].path.glob("wandb/offline-run-*/*.wandb")
    return read_log(file)
