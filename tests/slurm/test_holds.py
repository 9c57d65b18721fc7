"""Jobs that SLURM does not start: the remedy is printed, and jobs of a launcher that died half-way are taken back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.launchers.slurm.holds import wrong_setting
from experiments.launchers.slurm.settle import settle
from experiments.runs.cancel import cancel
from experiments.runs.find import Filters
from experiments.runs.listing import read_all
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LOOK_SECONDS, Sweep, Sweeps, use


def listed(sweep: Sweep) -> str:
    """Return the notes below the table of `runs list`."""
    statuses, notes = read_all(sweep.run().path.parent, Filters([]))
    return "\n".join([*notes, *(status.where for status in statuses)])


@pytest.fixture
def prolog(tmp_path: Path) -> Path:
    """A script with which every job of the cluster below begins. It fails while a file `broken` is beside it."""
    script = tmp_path / "prolog.sh"
    script.write_text(f"#!/bin/bash\n[ ! -e {tmp_path}/broken ]\n")
    script.chmod(0o755)
    return script


@pytest.fixture
def breakable(prolog: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that accepts any time limit: a job with more than its partition's limit waits for ever."""
    with Cluster(nodes=1, settings={"Prolog": prolog}) as cluster:
        use(cluster, monkeypatch)
        yield cluster


def test_a_node_that_can_t_launch_jobs(breakable: Cluster, prolog: Path, make_sweep: Sweeps) -> None:
    """SLURM holds the job. Once the node is repaired, `retry` starts the job."""
    stuck = make_sweep(breakable, "train")
    prolog.with_name("broken").touch()
    stuck.launch()
    job = stuck.job()
    breakable.wait(lambda: "held" in breakable.run("squeue", "-h", "-j", job, "-o", "%r"), "held by SLURM")
    stuck.until(lambda: f"{job} held" in listed(stuck), "the table says so", LOOK_SECONDS)
    said = listed(stuck)
    assert "launch failed requeued held" in said and f"scontrol release {job}" in said
    events = len(stuck.run().events())
    assert stuck.states() == ["queued"] and len(stuck.run().events()) == events, "said once"
    prolog.with_name("broken").unlink()
    breakable.bring_back("n1")
    retry = [sys.executable, "-m", "experiments.runs", "--runs-dir", str(stuck.run().path.parent), "retry"]
    retried = subprocess.run(retry, capture_output=True, text=True)
    assert retried.returncode == 0 and f"{job}: released" in retried.stdout, retried.stderr
    stuck.until(lambda: "held" not in listed(stuck), "no longer", LOOK_SECONDS)
    stuck.start_now(job)
    stuck.until_over()
    stuck.must_become("finished")


def test_cancelled_while_the_epilog_of_a_requeued_job_runs(
    tmp_path: Path, make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its epilog has ended, a job is COMPLETING; then SLURM would start it again."""
    epilog, slow = tmp_path / "epilog.sh", tmp_path / "slow"
    epilog.write_text(f"#!/bin/bash\nwhile [ -e {slow} ]; do sleep 0.1; done\n")
    epilog.chmod(0o755)
    with Cluster(nodes=1, settings={"Epilog": epilog}) as cluster:
        use(cluster, monkeypatch)
        requeued = make_sweep(cluster, "hang")
        requeued.launch()
        requeued.until_training()
        slow.touch()
        job = requeued.job()
        cluster.run("scontrol", "requeue", job)
        requeued.until(lambda: requeued.states() == ["interrupted"], "the attempt's end")
        assert cluster.states()[job] == "COMPLETING"
        assert cancel([requeued.run()]) == 0 and requeued.run().state() == "cancelled"
        slow.unlink()
        requeued.until(lambda: cluster.states()[job] == "CANCELLED", "over for SLURM")
        requeued.must_become("cancelled")


def test_held_and_released_by_hand(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    by_hand = sweep("train")
    by_hand.launch(sbatch={"begin": "now+1hour"})
    job = by_hand.job()
    by_hand.cluster.run("scontrol", "hold", job)
    assert by_hand.states() == ["queued"] and f"scontrol release {job}" in listed(by_hand)
    by_hand.launch()
    assert f"SLURM does not start job {job}" in capsys.readouterr().out, "asking again says why nothing is submitted"
    by_hand.cluster.run("scontrol", "release", job)
    assert by_hand.states() == ["queued"] and "held" not in listed(by_hand)


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("QOSMaxWallDurationPerJobLimit", "hydra.launcher.time"),
        ("AssocMaxCpuMinutesPerJobLimit", "hydra.launcher.time"),
        ("QOSMaxCpuPerNode", "hydra.launcher.cpus_per_task"),
        ("AssocMaxMemPerJob", "hydra.launcher.mem"),
        ("QOSMaxGRESPerJob", "hardware.gpus_per_node"),
        ("QOSMinGRES", "hardware.gpus_per_node"),
        ("AssocMaxNodePerJobLimit", "hardware.nodes"),
        ("PartitionTimeLimit", "hydra.launcher.time"),
        ("QOSMaxJobsPerUserLimit", None),  # others of the user's jobs end
        ("QOSMaxGRESPerUser", None),
        ("AssocMaxJobsLimit", None),
        ("Resources", None),
    ],
)
def test_a_limit_of_one_job_holds_for_ever_and_one_of_many_does_not(reason: str, setting: str | None) -> None:
    """The reasons are those of SLURM 22.05's library."""
    assert wrong_setting(reason) == setting


def stopping(folder: Path, where: str) -> Path:
    """Return a folder for the PATH. Its sbatch stops after submitting, or its `scontrol release` before releasing.

    The pid of the stopped process is then in folder/pid.
    """
    found, programs = os.environ["PATH"], folder / "bin"
    stop = f"echo $$ > {folder}/pid.new; mv {folder}/pid.new {folder}/pid; exec sleep 100"
    texts = {
        "sbatch": f'PATH={found} sbatch "$@"; [[ "$*" == *--hold* ]] && {{ {stop}; }}',
        "scontrol": f'[[ "$1" == release ]] && {{ {stop}; }}; PATH={found} exec scontrol "$@"',
    }
    programs.mkdir()
    (programs / where).write_text(f"#!/bin/bash\n{texts[where]}\n")
    (programs / where).chmod(0o755)
    return programs


def slow_scancel(folder: Path) -> Path:
    """Return a folder for the PATH in which scancel takes a minute."""
    program = folder / "slow" / "scancel"
    program.parent.mkdir()
    program.write_text("#!/bin/bash\nexec sleep 60\n")
    program.chmod(0o755)
    return program.parent


@pytest.mark.parametrize(("where", "become"), [("sbatch", "planned"), ("scontrol", "cancelled")])
def test_a_launcher_killed_before_it_released_its_jobs(
    sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, become: str
) -> None:
    killed = sweep("train", "train")
    programs, note = stopping(tmp_path, where), tmp_path / "pid"
    launcher = os.fork()
    if launcher == 0:
        try:
            os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
            killed.launch()
        finally:
            os._exit(1)
    killed.until(note.exists, "in the middle of the submission")
    queued = killed.cluster.run("squeue", "-h", "-r", "-o", "%i %r")
    assert queued.count("JobHeldUser") == 2
    assert "held" not in listed(killed), "a launcher at work is left alone"
    assert killed.cluster.run("squeue", "-h", "-r", "-o", "%i %r") == queued
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    os.kill(int(note.read_text()), signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{slow_scancel(tmp_path)}:{os.environ['PATH']}")
        start = time.monotonic()
        assert "scancel did not answer within" in (settle([killed.run()], seconds=3.0) or "")
        assert time.monotonic() - start < 5, "a look takes no longer than asked for, in all"
    killed.must_become(become, become)
    assert killed.cluster.run("squeue", "-h") == ""
    assert not list(tmp_path.glob("runs/.slurm/pending/*"))
    killed.launch()
    killed.until_over()
    killed.must_become("finished", "finished")
