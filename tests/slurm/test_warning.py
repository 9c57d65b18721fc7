"""SLURM's signal before a time limit: the run saves after its step, and goes on in the same job or in a new one."""

from __future__ import annotations

import json
import time
from typing import Any

import psutil
import pytest

from experiments.launchers.slurm.settle import verdict
from experiments.store import warning
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Sweep, Sweeps, use


def warn(sweep: Sweep, seed: int = 1) -> None:
    """Send what --signal=B:USR1@seconds makes SLURM send before the limit; SLURM checks limits only every 30 s."""
    sweep.cluster.run("scancel", "--signal=USR1", "--batch", sweep.job(seed))


def steps_trained(sweep: Sweep) -> list[list[int]]:
    """Return the trained steps of each attempt."""
    attempts = [attempt.metrics.read_text().splitlines() for attempt in sweep.run().attempts()]
    return [[json.loads(line)["step"] for line in lines] for lines in attempts]


def test_a_warned_run_saves_and_its_job_is_requeued(sweep: Sweeps) -> None:
    warned = sweep("until warned")
    warned.launch()
    warned.until_training()
    warn(warned)
    job = warned.until_waiting()
    warned.must_become("queued")
    warned.start_now(job)
    warned.until_over()
    warned.must_become("finished")
    before, after = steps_trained(warned)
    assert before + after == [1, 2, 3, 4, 5, 6], "no step is lost, none is trained twice"
    assert warned.job() == job


def test_a_launch_between_an_attempt_s_end_and_its_requeue_submits_nothing(
    sweep: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    """To stretch this moment, in_job, the attempt's parent process, is stopped while the attempt ends."""
    between = sweep("until warned")
    between.launch()
    between.until_training()
    run, job = between.run(), between.job()
    attempt = next(event["pid"] for event in run.events() if event["event"] == "started")
    script = psutil.Process(psutil.Process(attempt).ppid())
    script.suspend()
    warn(between)  # in_job gets the signal when it goes on
    warning.warn(run.attempts()[0].path, time.time() + 20)
    between.until(lambda: run.state() == "interrupted", "the attempt's end")
    capsys.readouterr()
    between.launch()
    said = " ".join(capsys.readouterr().out.split())
    assert f"{run.path.name}: its job has not ended" in said and "nothing to submit" in said
    script.resume()
    assert between.until_waiting() == job
    between.must_become("queued")
    assert between.cluster.run("squeue", "-h", "-r", "-o", "%i").split() == [job]


def test_a_warning_in_the_pause_before_a_new_try_has_the_job_queued_again(sweep: Sweeps) -> None:
    tried = sweep("signal once:SIGKILL")
    tried.launch(retries=2)
    tried.until(lambda: any(event["event"] == "retried" for event in tried.run().events()), "the pause")
    warn(tried)
    job = tried.until_waiting()
    tried.must_become("queued")
    tried.start_now(job)
    tried.until_over()
    tried.must_become("finished")
    assert steps_trained(tried) == [[1, 2, 3], [3, 4, 5, 6]] and tried.job() == job


def test_a_step_that_outlasts_the_warning_is_cut_short(sweep: Sweeps) -> None:
    """The run goes on from its last checkpoint: only the steps after it are lost."""
    cut = sweep("once")
    cut.launch(warning_seconds=8)
    cut.until_training()
    assert cut.run().checkpoint_step() == 2
    warn(cut)
    job = cut.until_waiting()
    cut.must_become("queued")
    cut.start_now(job)
    cut.until_over()
    cut.must_become("finished")
    assert steps_trained(cut) == [[1, 2, 3], [3, 4, 5, 6]]


@pytest.mark.parametrize(
    "forbidding", [{"requeue": False}, {"sbatch": {"no-requeue": True}}], ids=["by us", "by SLURM"]
)
def test_where_requeueing_is_forbidden_a_new_job_goes_on(sweep: Sweeps, forbidding: dict[str, Any]) -> None:
    chained = sweep("until warned")
    chained.launch(**forbidding)
    chained.until_training()
    first = chained.job()
    warn(chained)
    chained.until(lambda: chained.job() != first, "a new job")
    chained.until_over()
    chained.must_become("finished")
    assert steps_trained(chained)[1][0] == steps_trained(chained)[0][-1] + 1
    assert chained.cluster.states()[first] == "COMPLETED"
    refused = "requeueing was refused" in (chained.run().path / "job.log").read_text()
    assert refused == ("sbatch" in forbidding)


@pytest.mark.parametrize("requeue", [True, False])
def test_who_is_warned_is_one_run_and_not_its_array(sweep: Sweeps, requeue: bool) -> None:
    """In SLURM the number of an array's last task is also the number of the whole array."""
    pair = sweep("hang", "until warned")
    pair.launch(requeue=requeue)
    pair.until_training(1)
    pair.until_training(2)
    other, last = pair.job(1), pair.job(2)
    warn(pair, 2)
    if requeue:
        pair.until_waiting(2)
    else:
        pair.until(lambda: pair.run(2).state() == "finished", "the last one goes on by itself")
        assert pair.job(2) != last
    assert pair.cluster.states()[other] == "RUNNING" and pair.run(1).state() == "running"
    assert len(pair.run(1).attempts()) == 1


def test_a_warning_without_progress_ends_the_chain(sweep: Sweeps) -> None:
    stuck = sweep("stuck")
    stuck.launch()
    stuck.until(lambda: stuck.run().attempts() and (stuck.run().attempts()[0].path / "seen.json").exists(), "training")
    warn(stuck)
    (job,) = stuck.until_over().values()
    assert (job.state, job.exit_code) == ("FAILED", 1)
    stuck.must_become("failed")
    assert stuck.failure()["kind"] == "time limit" and "trainer.save_freq" in stuck.failure()["remedy"]


def test_a_cluster_that_requeues_nothing_by_itself(make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    """With JobRequeue=0, a job can be requeued only if it says so when it is submitted, and ours do."""
    with Cluster(nodes=1, settings={"JobRequeue": 0}) as strict:
        use(strict, monkeypatch)
        warned = make_sweep(strict, "until warned")
        warned.launch()
        warned.until_training()
        warn(warned)
        warned.until_waiting()
        warned.must_become("queued")


def test_a_job_that_ends_by_its_time_limit(overdue: dict[str, Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    late = overdue["setup"]
    use(late.cluster, monkeypatch)
    job = late.job()
    late.until(lambda: late.cluster.states()[job] == "TIMEOUT", "the time limit", 150)
    forgotten = verdict(late.run(), late.run().events(), None, siblings=False)
    late.must_become("failed")
    assert late.failure()["kind"] == "time limit" and "hydra.launcher.time" in late.failure()["remedy"]
    assert forgotten and forgotten["kind"] == "time limit", "SLURM's last word stands in job.log"


def test_slurm_s_own_warning(overdue: dict[str, Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt ignores the warning and SIGTERM: it is killed before the limit, and the job is requeued."""
    warned = overdue["step"]
    use(warned.cluster, monkeypatch)
    job = warned.job()
    warned.until(lambda: "Restarts=1" in warned.cluster.run("scontrol", "show", "job", job), "requeued", 180)
    (told,) = [event for event in warned.run().events() if event.get("cause") == "requeued after the warning"]
    assert (told["event"], told["step"]) == ("submitted", 2)
