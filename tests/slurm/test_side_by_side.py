"""`hydra.launcher.arms_per_job`: several runs in one job, each with its own share, state, end and next life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.errors import UserError
from experiments.launchers.device_locks import lock_device
from experiments.launchers.slurm.arms_per_job import outlook
from experiments.launchers.slurm.resources import Resources
from experiments.launchers.slurm.settle import verdict
from experiments.runs.cancel import cancel
from experiments.store.rundir import RunDir
from tests.slurm.conftest import Sweep, Sweeps, launcher_defaults

LATER = {"begin": "now+1hour"}


def on_a_gpu(config: dict[str, Any], seed: int) -> None:
    config["trainer"]["device"] = "cuda"


def words(sweep: Sweep, seed: int) -> list[str]:
    return [event["event"] for event in sweep.run(seed).events()]


def warn(sweep: Sweep) -> None:
    sweep.cluster.run("scancel", "--signal=USR1", "--batch", sweep.job())


def test_a_job_with_several_runs_is_requeued_for_those_that_are_cut_short(sweep: Sweeps) -> None:
    """Each run has its own share of the job, and its own end; what has ended is not executed again."""
    three = sweep("until warned", "raise", "train", change=on_a_gpu)
    three.launch(arms_per_job=2, gpus_per_node=1, cpus_per_task=2)
    jobs = [three.job(seed) for seed in (1, 2, 3)]
    assert jobs[0] == jobs[1] != jobs[2]
    both = ("-j", ",".join(job.split("_")[0] for job in jobs))
    asked = three.cluster.run("squeue", *both, "-h", "-t", "all", "-r", "-o", "%i %C %m %b").splitlines()
    assert sorted(asked) == [f"{jobs[0]} 4 2000M gres:gpu:2", f"{jobs[2]} 2 1000M gres:gpu:1"]
    three.until_training(1)
    three.until(lambda: three.states() == ["running", "failed", "finished"], "one goes on")
    assert three.run().path.name in str(lock_device("0", "another launcher on the node"))
    warn(three)
    three.until_waiting()
    three.must_become("queued", "failed", "finished")
    three.start_now(jobs[0])
    assert {job.state for job in three.until_over().values()} == {"COMPLETED"}
    three.must_become("finished", "failed", "finished")
    assert [len(run.folder.attempts()) for run in three.runs] == [2, 1, 1], "what has failed is not tried again"
    assert [event["step"] for event in three.run().events() if event["event"] == "resumed"] == [3]
    seen = [three.seen(seed)["environment"] for seed in (1, 2, 3)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["0", "1", "0"]
    assert [one["SLURM_CPUS_PER_TASK"] for one in seen] == ["2"] * 3


def test_a_new_job_goes_on_only_with_those_that_are_cut_short(sweep: Sweeps) -> None:
    chained = sweep("raise", "until warned", "stuck")
    chained.launch(arms_per_job=4, requeue=False)
    first = chained.job(2)
    chained.until_training(2)
    chained.until(lambda: chained.states() == ["failed", "running", "running"], "two go on")
    warn(chained)
    chained.until(lambda: chained.job(2) != first, "a new job")
    chained.until_over()
    chained.must_become("failed", "finished", "failed")
    assert chained.failure(3)["kind"] == "time limit", "it got no further, and is not queued for ever"
    assert [len(run.folder.attempts()) for run in chained.runs] == [1, 2, 1]
    assert [chained.job(seed) == first for seed in (1, 2, 3)] == [True, False, True]


def test_one_run_of_a_job_ends_and_the_others_go_on(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    several = sweep(*["hang"] * 4)
    several.launch(arms_per_job=4, sbatch=LATER)
    job = several.job()
    assert cancel([several.run(4)]) == 0, "while the job waits"
    several.must_become("queued", "queued", "queued", "cancelled")
    several.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    for seed in (1, 2, 3):
        several.until_training(seed)
    assert not several.run(4).attempts()
    assert cancel([several.run(1)]) == 0, "while it trains"
    several.must_become("cancelled", "running", "running", "cancelled")
    assert words(several, 1)[-2:] == ["interrupted", "cancelled"]
    pid = next(event["pid"] for event in several.run(2).events() if event["event"] == "started")
    several.cluster.run("kill", "-KILL", psutil.Process(pid).ppid())
    several.until(lambda: several.states() == ["cancelled", "failed", "running", "cancelled"], "one ends itself")
    assert "takes care of the attempt" in several.failure(2)["cause"]
    capsys.readouterr()
    last = Sweep(several.cluster, several.folder, several.runs[2:3], several.behaviours)
    last.launch(arms_per_job=4)
    assert "nothing to submit" in capsys.readouterr().out
    several.cluster.run("scancel", "--signal=KILL", "--batch", job)
    several.until(lambda: several.states() == ["cancelled", "failed", "failed", "cancelled"], "it ends with its job")
    several.until(lambda: not last.run().is_locked(), "nothing of it is left", 20)


def test_the_last_run_that_is_cancelled_takes_the_job_along(sweep: Sweeps, tmp_path: Path) -> None:
    both = sweep("train", "train")
    both.launch(arms_per_job=2, sbatch=LATER)
    assert cancel([both.run(1)]) == 0 and both.states() == ["cancelled", "queued"]
    (tmp_path / "another path").symlink_to(both.run().path.parent)
    assert cancel([RunDir(tmp_path / "another path" / both.run(2).path.name)]) == 0
    assert both.states() == ["cancelled", "cancelled"]
    assert both.cluster.run("squeue", "-h") == ""


def test_a_setup_that_fails_is_told_for_each_run(sweep: Sweeps) -> None:
    """What the job prints is no run's own; it is read for all of them, also when SLURM has forgotten the job."""
    broken = sweep("train", "train")
    broken.launch(arms_per_job=2, setup=["echo no such module >&2; exit 3"])
    queued = broken.run().events()
    broken.until_over()
    forgotten = verdict(broken.run(), queued, None, siblings=False)
    broken.must_become("failed", "failed")
    causes = [forgotten["cause"] if forgotten else "", *(broken.failure(seed)["cause"] for seed in (1, 2))]
    assert ["no such module" in cause for cause in causes] == [True, True, True], causes


def test_the_plan_says_how_many_runs_a_job_has(sweep: Sweeps) -> None:
    five = sweep(*["train"] * 5, change=lambda config, seed: config["hardware"].update(seconds_per_step=600))
    (line,) = outlook(five.runs, {**launcher_defaults(), "arms_per_job": 2}, starting=False)
    assert line == "with SLURM: 5 runs in 3 jobs, up to 2 side by side in one; a job takes about 1 hours from its start"
    assert outlook(five.runs, launcher_defaults(), starting=False) == []
    with pytest.raises(UserError, match="arms_per_job must be a whole number of at least 1, but is 'x'"):
        outlook(five.runs, {**launcher_defaults(), "arms_per_job": "x"}, starting=False)


@pytest.mark.parametrize(
    ("gres", "twice"),
    [("gpu", "gpu:2"), ("gpu:3", "gpu:6"), ("gpu:a100", "gpu:a100:2"), ("lustre:1,gpu:a100:2", "lustre:1,gpu:a100:4")],
)
def test_what_two_runs_ask_for_together(gres: str, twice: str) -> None:
    one = Resources(gres=gres, cpus_per_task=3, mem="240G", time="1:00:00", warning_seconds=60)
    assert one.times(2) == Resources(gres=twice, cpus_per_task=6, mem="480G", time="1:00:00", warning_seconds=60)
    assert Resources(gpus_per_node=2, mem="0").times(4) == Resources(gpus_per_node=8, mem="0")
