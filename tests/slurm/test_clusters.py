"""Clusters that share a runs folder: none judges, releases or cancels a job of another, whatever its number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from experiments.errors import UserError
from experiments.launchers.slurm import in_job
from experiments.launchers.slurm.run_job import run_job
from experiments.runs.cancel import cancel
from experiments.runs.find import Filters
from experiments.runs.listing import read_all
from experiments.runs.retry import release
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LATER, Sweep, Sweeps, queue, use


@pytest.fixture
def queued(sweep: Sweeps) -> Sweep:
    """Two runs that wait on the shared cluster, whose name is "test"."""
    waiting = sweep("train", "train")
    waiting.launch(sbatch=LATER)
    return waiting


@pytest.fixture
def other(queued: Sweep, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A second cluster; somebody's array there has the number of the runs' array. This process is a user there."""
    number = queued.job().split("_")[0]
    with Cluster(nodes=1, settings={"ClusterName": "other", "FirstJobId": number}) as second:
        use(second, monkeypatch)
        second.run("sbatch", "--array=0-1", "--begin=now+1hour", "-o", "/dev/null", "--wrap", "true")
        assert queue(second) == queue(queued.cluster)
        yield second


def test_a_job_of_another_cluster_is_left_alone(
    queued: Sweep, other: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, theirs = queued.run(), queue(other)
    events = run.events()
    assert queued.listed() == ["queued", "queued"] and run.events() == events
    statuses, _ = read_all(run.path.parent, Filters([]))
    assert {status.where for status in statuses} == {f"job {queued.job(k)} of cluster test" for k in (1, 2)}
    capsys.readouterr()
    queued.launch(sbatch=LATER)
    said = " ".join(capsys.readouterr().out.split())
    assert "nothing to submit" in said and f"job {queued.job()} of cluster test has it" in said
    job = run_job(events)
    assert job
    with pytest.raises(UserError, match=f"must be cancelled where its job is, which is {job}, but this is other"):
        cancel([run, queued.run(2)])
    with pytest.raises(UserError, match=f"{job} must be released on its cluster, but this is other"):
        release([job])
    assert queue(other) == theirs and run.events() == events
    # As if the other cluster had the same name, or had begun to count anew: then the jobs' names tell.
    run.record("submitted", launcher="slurm", job=job.id, cluster="other", job_name=job.name)
    assert cancel([run]) == 0 and queue(other) == theirs, "somebody else's job with the number of ours goes on"
    use(queued.cluster, monkeypatch)
    assert queued.states() == ["cancelled", "queued"]
    assert cancel([queued.run(2)]) == 0
    assert queue(queued.cluster) == [queued.job()], "whose run was given to the other cluster"


def test_a_job_with_our_number_and_another_name_says_nothing_of_a_run(queued: Sweep, other: Cluster) -> None:
    for seed in (1, 2):
        job = {"job": queued.job(seed), "cluster": "other", "job_name": "r1z-another"}
        queued.run(seed).record("submitted", launcher="slurm", **job)
    queued.must_become("failed", "failed")
    assert queued.failure()["kind"] == "lost"


def test_a_killed_run_of_another_cluster_is_not_trained_twice(
    queued: Sweep, other: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lock may be held on a node that is not seen from here."""
    run, job = queued.run(), run_job(queued.run().events())
    assert job
    run.record("started", job=job.id, cluster="test", job_name=job.name)
    queued.listed()
    assert run.state() == "killed"
    capsys.readouterr()
    queued.launch()
    said = " ".join(capsys.readouterr().out.split())
    assert f"only there can be asked whether {job} still trains" in said and "nothing to submit" in said


@pytest.mark.parametrize("given", [{"job": "12_0", "cluster": "other", "launcher": "slurm"}, {"launcher": "local"}])
def test_a_requeued_job_leaves_a_run_that_was_given_away(
    sweep: Sweeps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str]
) -> None:
    run = sweep("train").run()
    run.path.mkdir(parents=True)
    for name, value in {"JOB_ID": "12", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "0", "CLUSTER_NAME": "test"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run.record("submitted", launcher="slurm", job="12_0", cluster="test")
    run.record("interrupted")
    run.record("launched" if given["launcher"] == "local" else "submitted", **given)
    assert in_job.execute(run, 6, 20.0, requeue=True) == 0
    said = capsys.readouterr().out
    assert "has been given to" in said and given.get("cluster", "without SLURM") in said
    assert not run.attempts()
