"""The state of a run while SLURM and the run's files do not agree yet, or after SLURM has forgotten the job."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.launchers.slurm.queue import Job
from experiments.launchers.slurm.run_job import run_job
from experiments.launchers.slurm.settle import still_there, verdict
from experiments.processes import reaping
from experiments.runs.cancel import cancel
from experiments.runs.logs import logs
from experiments.store.rundir import RunDir
from tests.slurm.conftest import Sweeps

LATER = {"begin": "now+1hour"}
SUBMITTED = {"event": "submitted", "launcher": "slurm", "job": "12_3"}
LOCAL = {"event": "launched", "launcher": "local"}
IN_AN_ALLOCATION = {"event": "started", "job": "77"}


@pytest.mark.parametrize(
    ("events", "job"),
    [
        ([SUBMITTED, {"event": "started", "job": "12_3"}], "12_3"),
        ([SUBMITTED, {"event": "cancelled"}, {"event": "started", "job": "15"}], "15"),  # job.sh, submitted by hand
        ([LOCAL, IN_AN_ALLOCATION], None),
        ([SUBMITTED, {"event": "cancelled"}, LOCAL, IN_AN_ALLOCATION], None),
        ([LOCAL, IN_AN_ALLOCATION, SUBMITTED], "12_3"),
    ],
)
def test_a_local_run_has_no_job_even_inside_an_allocation(events: list[dict[str, str]], job: str | None) -> None:
    """Cancelling a local run must not end the allocation in which the user works."""
    found = run_job(events)
    assert (found and found.id) == job


@pytest.mark.parametrize("state", ["POWER_UP_NODE", "RUNNING", "COMPLETING", "PENDING", "REQUEUED"])
def test_a_state_that_is_no_end_ends_nothing(state: str, tmp_path: Path) -> None:
    assert not Job("12", state).ended
    run = RunDir(tmp_path)
    run.record(**SUBMITTED)
    assert verdict(run, run.events(), Job("12_3", state), siblings=True) is None


def test_what_a_user_likes_of_his_squeue_hides_nothing(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = sweep("train")
    queued.launch(sbatch=LATER)
    for name, value in {"PARTITION": "cancel", "USERS": "nobody", "NAMES": "x", "ACCOUNT": "x", "STATES": "CD"}.items():
        for program in ("SQUEUE", "SACCT", "SCANCEL"):
            monkeypatch.setenv(f"{program}_{name}", value)
    assert queued.states() == ["queued"]
    assert cancel([queued.run()]) == 0
    monkeypatch.undo()
    assert not queued.cluster.run("squeue", "-h")


def test_a_lock_that_is_not_seen_from_here(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    """Some file systems show a lock only on its own node. Then SLURM's word counts, and nothing is submitted twice."""
    unseen = sweep("hang")
    unseen.launch()
    unseen.until_training()
    (unseen.run().path / "lock").rename(unseen.run().path / "another")
    unseen.must_become("running")
    events = unseen.run().events()
    assert events[-1]["event"] == "running" and unseen.states() == ["running"]
    assert unseen.run().events() == events, "said once"
    unseen.launch()
    assert "nothing to submit" in capsys.readouterr().out
    unseen.cluster.run("scancel", "--signal=KILL", "--full", unseen.job())
    unseen.until_over()
    unseen.must_become("cancelled")


def test_following_the_log_of_a_queued_run_ends_when_its_job_is_cancelled(
    sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.runs.logs.LOOK_SECONDS", 0.2)
    queued = sweep("train", "train")
    queued.launch(sbatch=LATER)
    queued.cluster.run("scancel", queued.job())
    assert logs(queued.run(), follow=True) == 0 and queued.run().state() == "cancelled"


def test_an_attempt_that_dies_is_noted_whoever_looks(sweep: Sweeps) -> None:
    """SLURM says RUNNING between the attempt's death and the job's record of it."""
    dying = sweep("hang")
    dying.launch()
    dying.until_training()
    run = dying.run()
    pid = next(event["pid"] for event in run.events() if event["event"] == "started")
    run.record("running", job=dying.job(), cause="as a look has it that comes in between")
    dying.cluster.run("kill", "-KILL", pid)
    dying.until_over()
    dying.must_become("failed")
    assert signal.SIGKILL.name in dying.failure()["cause"]


def test_cancelled_by_our_own_command(sweep: Sweeps) -> None:
    """The attempt records first that it was interrupted; the command's record comes after it."""
    running = sweep("hang", "hang")
    running.launch()
    running.until_training(1)
    running.until_training(2)
    assert cancel([run.folder for run in running.runs]) == 0
    assert [run.folder.state() for run in running.runs] == ["cancelled", "cancelled"]
    running.until_over()
    running.must_become("cancelled", "cancelled")
    words = [event["event"] for event in running.run().events()]
    assert words[-2:] == ["interrupted", "cancelled"], words


def test_an_attempt_whose_job_ended_without_it_ends_itself(sweep: Sweeps) -> None:
    """`scancel --batch` ends only the script. Nobody records the run as cancelled while its attempt trains."""
    left = sweep("deaf", "hang")
    left.launch()
    left.until_training(1)
    left.until_training(2)
    left.cluster.run("scancel", "--signal=KILL", "--batch", left.job(1), left.job(2))
    left.until_over()
    assert left.run(1).is_locked(), "the attempt is not of the job's own processes any more"
    assert cancel([left.run(1)]) == 0
    for seed, last in ((1, "cancelled"), (2, "failed")):
        events = left.run(seed).events()
        failed = next(event for event in events if event["event"] == "failed")
        assert "the process of the SLURM job that takes care of the attempt" in failed["cause"]
        assert events[-1]["event"] == last and failed["kind"] == "killed"
        assert not list(reaping.of_run(left.run(seed).path)) and not left.run(seed).is_locked()


def test_what_can_t_be_ended_is_not_recorded_as_cancelled(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.runs.cancel.JOB_PATIENCE_SECONDS", 0.0)
    stuck = sweep("train", "train")
    stuck.launch(sbatch=LATER)
    locked = stuck.run()
    with locked.lock(), pytest.raises(UserError, match=r"must have ended to be cancelled, but process .* executes it"):
        cancel([locked, stuck.run(2)])
    assert [run.folder.events()[-1]["event"] for run in stuck.runs] == ["submitted", "cancelled"]


def test_an_interrupted_run_is_open_while_its_job_is_there(sweep: Sweeps) -> None:
    """The test stretches the moment between an attempt's end and its job's requeue."""
    between = sweep("deaf")
    between.launch()
    between.until_training()
    between.run().record("interrupted", step=2)
    assert still_there([between.run()])
    between.cluster.run("scancel", "--signal=KILL", "--full", between.job())
    between.until_over()
    assert not still_there([between.run()])


def test_a_job_that_fails_before_python_starts_and_is_forgotten(sweep: Sweeps) -> None:
    """Its output is in job.log, without a header. An array task that never started has no output."""
    broken = sweep("train", "train")
    setup = ['[ "$SLURM_ARRAY_TASK_ID" = 1 ] || { echo "python: No such file" >&2; exit 127; }']
    broken.launch(setup=setup, sbatch=LATER)
    never, (started, _) = broken.run(2), (broken.run(1), None)
    broken.cluster.run("scontrol", "update", f"JobId={broken.job(1)}", "StartTime=now")
    broken.until(lambda: broken.cluster.states()[broken.job(1)] == "FAILED", "the first one failed")
    lost = verdict(started, started.events(), None, siblings=True)
    assert lost and lost["event"] == "failed" and lost["kind"] == "lost" and "No such file" in lost["cause"]
    gone = verdict(never, never.events(), None, siblings=True)
    assert gone and gone["event"] == "cancelled"
    broken.must_become("failed", "queued")
    assert "FAILED 127:0: python: No such file" in broken.failure()["cause"]
    broken.cluster.run("scancel", broken.job(2))
    broken.launch(setup=setup, sbatch=LATER)
    again = verdict(started, started.events(), None, siblings=True)
    assert again and again["event"] == "cancelled", "what its former job said is not this one's"


def test_a_cancelled_job_that_is_forgotten(sweep: Sweeps) -> None:
    """slurmstepd's last words are in job.log, and say that the job was cancelled."""
    forgotten = sweep("hang")
    forgotten.launch()
    forgotten.until_training()
    forgotten.cluster.run("scancel", forgotten.job())
    forgotten.until_over()
    told = verdict(forgotten.run(), forgotten.run().events(), None, siblings=False)
    assert told and told["event"] == "cancelled"


def test_nodes_on_which_ray_does_not_come_up(sweep: Sweeps) -> None:
    """Whatever keeps Ray from starting is recorded as the run's failure, with its cause."""
    narrow = sweep("train", change=lambda config, seed: config["hardware"].update(nodes=2))
    narrow.launch(sbatch=LATER)
    narrow.cluster.run("scancel", narrow.job())
    script = narrow.run().path / "job.sh"
    job = narrow.cluster.run("sbatch", "--parsable", "--begin=now", "--nodes=1", script).strip()
    narrow.until(lambda: narrow.cluster.states()[job] == "FAILED", "the job")
    assert "must have hardware.nodes=2 nodes, but has 1" in narrow.failure()["cause"]
