"""Every way in which a job can end on a cluster without sacct: which state the run gets, and what SLURM says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.launchers.slurm.settle import still_there
from experiments.processes import reaping
from tests.slurm.conftest import Sweep, look

pytestmark = pytest.mark.usefixtures("overdue")  # started early: it takes minutes, and its test is in test_warning.py
MakeSweep = Callable[..., Sweep]


def scratch(sweep: Sweep, seed: int = 1) -> list[Path]:
    """Return the temporary folders of a run."""
    return list(reaping.SCRATCH.glob(f"{reaping.scratch_prefix(sweep.run(seed).path)}*"))


def test_what_an_attempt_can_do_to_itself(sweep: MakeSweep) -> None:
    ends = sweep("train", "raise", "exit:7", "exit:255", "signal:SIGSEGV", "signal:SIGKILL", "memory")
    assert ends.launch(mem="400M") == 0
    slurm = ends.until_over()
    ends.must_become("finished", *["failed"] * 6)
    said = [slurm[ends.job(seed)] for seed in range(1, 8)]
    assert [(job.state, job.exit_code, job.signal) for job in said[:6]] == [
        ("COMPLETED", 0, 0),
        ("FAILED", 1, 0),
        ("FAILED", 7, 0),
        ("FAILED", 255, 0),
        ("FAILED", 128 + 11, 0),
        ("FAILED", 128 + 9, 0),
    ]
    assert (said[6].state, said[6].exit_code, said[6].signal) == ("FAILED", 0, 9)
    assert "the loss is not what it was" in ends.failure(2)["cause"]
    assert "ended with 7" in ends.failure(3)["cause"]
    assert "ended with 255" in ends.failure(4)["cause"]
    assert "SIGSEGV" in ends.failure(5)["cause"]
    assert "SIGKILL" in ends.failure(6)["cause"]
    assert not any(scratch(ends, seed) for seed in (5, 6)), "the job has removed what its killed attempt left"
    assert ends.failure(7)["kind"] == "out of memory" and "hydra.launcher.mem" in ends.failure(7)["remedy"]


def test_what_is_not_the_config_s_fault_is_tried_again_in_the_same_job(sweep: Sweep) -> None:
    tried = sweep("signal once:SIGKILL", "raise", "signal:SIGKILL")
    tried.launch(retries=2)
    jobs = [tried.job(seed) for seed in (1, 2, 3)]
    tried.until_over()
    tried.must_become("finished", "failed", "failed")
    assert [len(run.folder.attempts()) for run in tried.runs] == [2, 1, 2], "only while a try gets further"
    assert [tried.job(seed) for seed in (1, 2, 3)] == jobs
    (again,) = [event for event in tried.run().events() if event["event"] == "retried"]
    assert (again["number"], again["of"], again["step"]) == (1, 2, 2) and "SIGKILL" in again["cause"]


def test_a_failed_run_is_not_over_while_its_job_may_try_again(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    """Between an attempt's end and the next try the run is failed, and its job goes on."""
    one = sweep("hang")
    one.launch()
    one.until_training()
    run, job = one.run(), one.job()
    (attempt,) = [process for process in reaping.of_run(run.path) if "experiments.attempt" in process.cmdline()]
    attempt.suspend()  # so that it records nothing meanwhile
    run.record("failed", kind="error", cause="as if", remedy="none")
    assert still_there([run]) == {}
    run.record("failed", kind="killed", cause="as if", remedy="none")
    assert [found.id for found in still_there([run]).values()] == [job]
    capsys.readouterr()
    one.launch()
    assert "its job has not ended" in " ".join(capsys.readouterr().out.split()) and one.job() == job
    attempt.kill()
    one.cluster.run("scancel", job)
    one.until_over()
    run.record("failed", kind="killed", cause="as if", remedy="none")
    assert still_there([run]) == {}


def test_cancelled_while_it_runs_and_while_it_waits(sweep: MakeSweep) -> None:
    cancelled = sweep("hang", "train", "train")
    cancelled.launch(array_parallelism=1)
    cancelled.until_training(1)
    assert cancelled.states() == ["running", "queued", "queued"]
    cancelled.cluster.run("scancel", cancelled.job(2))
    cancelled.must_become("running", "cancelled", "queued")
    cancelled.cluster.run("scancel", cancelled.job(1))
    cancelled.until(lambda: cancelled.states() == ["cancelled", "cancelled", "finished"], "the last one goes on")


def resumed(sweep: Sweep) -> list[tuple[int, str]]:
    """Return (step, the run's last job) for each time that the sweep's one run resumed."""
    return [(event["step"], sweep.job()) for event in sweep.run().events() if event["event"] == "resumed"]


def test_a_requeue_goes_on_at_the_last_checkpoint(sweep: MakeSweep) -> None:
    requeued = sweep("once")
    requeued.launch()
    requeued.until_training()
    requeued.cluster.run("scontrol", "requeue", requeued.job())
    job = requeued.until_waiting()
    requeued.must_become("queued")
    requeued.start_now(job)
    requeued.until_over()
    requeued.must_become("finished")
    assert resumed(requeued) == [(2, job)]


def test_cancelled_while_it_is_requeued(sweep: MakeSweep) -> None:
    torn = sweep("once")
    torn.launch()
    torn.until_training()
    job = torn.job()
    torn.cluster.run("bash", "-c", f"scontrol requeue {job}; scancel {job}")
    torn.until(lambda: torn.cluster.states()[job] == "CANCELLED", "cancelled for SLURM")
    torn.must_become("cancelled")


def test_preempted_and_requeued(sweep: MakeSweep) -> None:
    preempted = sweep("once")
    preempted.launch(sbatch={"exclusive": True})
    preempted.until_training()
    preempted.cluster.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    job = preempted.until_waiting()
    preempted.must_become("queued")
    preempted.start_now(job)
    preempted.until_over()
    preempted.must_become("finished")
    assert resumed(preempted) == [(2, job)]


def test_preempted_and_cancelled(sweep: MakeSweep) -> None:
    preempted = sweep("once")
    preempted.launch(sbatch={"exclusive": True}, partition="cancel")
    preempted.until_training()
    preempted.cluster.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    (job,) = preempted.until_over().values()
    assert job.state == "PREEMPTED"
    preempted.must_become("interrupted")
    left = reaping.SCRATCH / f"{reaping.scratch_prefix(preempted.run().path)}deadbeef"
    left.mkdir()  # as a job leaves it that SLURM kills together with its attempt
    preempted.launch(partition="cancel")
    preempted.until_over()
    assert not scratch(preempted), "the next life removes what the former left"
    preempted.must_become("finished")


def test_a_node_that_fails(sweep: MakeSweep) -> None:
    failing = sweep("once")
    failing.launch()
    failing.until_training()
    job = failing.job()
    node = look(job)[job].nodes
    failing.cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    failing.until_waiting()
    failing.must_become("queued")
    failing.start_now(job)
    failing.until_over()
    failing.must_become("finished")
    assert resumed(failing) == [(2, job)]


def test_a_node_that_fails_where_nothing_is_requeued(sweep: MakeSweep) -> None:
    failing = sweep("hang")
    failing.launch(sbatch={"nodelist": "n2"}, requeue=False)
    failing.until_training()
    failing.cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    (job,) = failing.until_over().values()
    assert job.state == "NODE_FAIL"
    failing.must_become("failed")
    assert failing.failure()["kind"] == "node failure" and "resumes at step 2" in failing.failure()["remedy"]


def test_a_node_that_was_out_of_touch_and_kept_the_job(sweep: MakeSweep) -> None:
    """The requeued job finds its own former attempt still training: it ends that attempt, and goes on."""
    kept = sweep("once")
    kept.launch(sbatch={"nodelist": "n1"})
    kept.until_training()
    job = kept.job()
    kept.cluster.lose_touch("n1")
    kept.until(lambda: kept.cluster.states()[job] == "PENDING", "queued again")
    assert kept.run().is_locked(), "the former life goes on"
    kept.cluster.start_node("n1")
    kept.cluster.bring_back("n1")
    kept.start_now(job)
    kept.until_over()
    kept.must_become("finished")
    assert resumed(kept) == [(2, job)]
