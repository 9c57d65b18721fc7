"""The signal before a time limit: the run saves at the end of its step, and goes on in the same job or a new one."""

from __future__ import annotations

import json

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import Sweep, Sweeps, use


def warn(sweep: Sweep) -> None:
    """Send what SLURM sends --signal=B:USR1@seconds before the limit (it looks at limits every 30 s only)."""
    sweep.cluster.run("scancel", "--signal=USR1", "--batch", sweep.job())


def steps_trained(sweep: Sweep) -> list[list[int]]:
    """Return the steps of each attempt."""
    attempts = [attempt.metrics.read_text().splitlines() for attempt in sweep.run().attempts()]
    return [[json.loads(line)["step"] for line in lines] for lines in attempts]


def test_a_warned_run_saves_and_its_job_is_requeued(sweep: Sweeps) -> None:
    warned = sweep("until warned")
    warned.launch()
    warned.until_training()
    job = warned.job()
    warn(warned)
    warned.until(lambda: warned.cluster.states()[job] == "PENDING", "the job waits again")
    assert warned.states() == ["queued"]
    warned.start_now(job)
    warned.until_over()
    warned.must_become("finished")
    before, after = steps_trained(warned)
    assert before + after == [1, 2, 3, 4, 5, 6], "no step is lost, none is trained twice"
    assert warned.job() == job


def test_where_requeueing_is_forbidden_a_new_job_goes_on(sweep: Sweeps) -> None:
    chained = sweep("until warned")
    chained.launch(requeue=False)
    chained.until_training()
    first = chained.job()
    warn(chained)
    chained.until(lambda: chained.job() != first, "a new job")
    chained.until_over()
    chained.must_become("finished")
    assert steps_trained(chained)[1][0] == steps_trained(chained)[0][-1] + 1
    assert chained.cluster.states()[first] == "COMPLETED"


def test_a_warning_without_progress_ends_the_chain(sweep: Sweeps) -> None:
    stuck = sweep("stuck")
    stuck.launch()
    stuck.until(lambda: stuck.run().attempts() and (stuck.run().attempts()[0].path / "seen.json").exists(), "training")
    warn(stuck)
    stuck.until_over()
    stuck.must_become("failed")
    assert stuck.failure()["kind"] == "time limit" and "trainer.save_freq" in stuck.failure()["remedy"]


def test_a_cluster_that_requeues_nothing_by_itself(make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    """JobRequeue=0: jobs that may be requeued must say so when they are submitted, and ours do."""
    with Cluster(nodes=1, settings={"JobRequeue": 0}) as strict:
        use(strict, monkeypatch)
        warned = make_sweep(strict, "until warned")
        warned.launch()
        warned.until_training()
        job = warned.job()
        warn(warned)
        warned.until(lambda: strict.states()[job] == "PENDING", "the job waits again")
        assert warned.states() == ["queued"]


def test_a_time_limit_whose_warning_was_not_heeded(overdue: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    use(overdue.cluster, monkeypatch)
    overdue.until(lambda: "TIMEOUT" in overdue.cluster.states().values(), "the time limit", 150)
    overdue.must_become("failed")
    assert overdue.failure()["kind"] == "time limit" and "hydra.launcher.time" in overdue.failure()["remedy"]
