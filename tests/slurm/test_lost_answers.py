"""SLURM's answers that are lost, late or not to be had: nothing is submitted twice, and nothing is forgotten."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.launchers.slurm.launch import catch_up
from experiments.launchers.slurm.settle import settle
from tests.slurm.calls import Calls
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LATER, Sweeps, queue, use

LOST = "echo 'error: Socket timed out on send/recv operation' >&2; exit 1"


def program(folder: Path, name: str, text: str) -> str:
    """Put a program before SLURM's on a PATH, and return the PATH. $found in its text is the PATH of SLURM's."""
    file = folder / "before" / name
    file.parent.mkdir()
    file.write_text(f"#!/bin/bash\nfound={os.environ['PATH']}\n{text}\n")
    file.chmod(0o755)
    return f"{file.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(("name", "which"), [("sbatch", "--hold"), ("scontrol", "release")])
def test_slurm_s_answer_is_lost(
    sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, which: str
) -> None:
    """SLURM has done what it was asked to do: the jobs are found by their name, and the launch goes on."""
    unheard = sweep("train")
    text = f'PATH=$found {name} "$@" || exit\n[[ " $* " != *" {which} "* ]] || {{ {LOST}; }}'
    with monkeypatch.context() as patch:
        patch.setenv("PATH", program(tmp_path, name, text))
        unheard.launch(sbatch=LATER)
    assert queue(unheard.cluster) == [unheard.job()]
    assert "held" not in unheard.cluster.run("squeue", "-o", "%r").lower()
    assert unheard.states() == ["queued"] and not list(tmp_path.glob("runs/.slurm/pending/*"))


def test_slurm_s_answer_to_a_requeue_is_lost(sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM has queued the job again: no other one is submitted."""
    warned = sweep("until warned")
    text = f'PATH=$found scontrol "$@" || exit\n[[ "$1" != requeue ]] || {{ {LOST}; }}'
    with monkeypatch.context() as patch:
        patch.setenv("PATH", program(tmp_path, "scontrol", text))  # sbatch hands it over to the job
        warned.launch()
    warned.until_training()
    warned.cluster.run("scancel", "--signal=USR1", "--batch", warned.job())
    job = warned.until_waiting()
    warned.must_become("queued")
    assert queue(warned.cluster) == [job] and "SLURM: " not in str(warned.run().events()[-1].get("cause"))


def test_an_array_that_comes_after_sbatch_has_given_up_is_taken_back(
    sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, script = sweep("train"), tmp_path / "script"
    monkeypatch.setattr("experiments.launchers.slurm.commands.LATE_SECONDS", 0.0)
    text = f'[[ "$*" != *--hold* ]] || {{ cp "${{@: -1}}" {script}; {LOST}; }}'
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"but says: .*Socket timed out"):
        patch.setenv("PATH", program(tmp_path, "sbatch", text))
        late.launch()
    assert late.states() == ["planned"]
    late.cluster.run("sbatch", "--hold", script)
    late.must_become("planned")
    assert queue(late.cluster) == []


def test_where_there_is_no_slurm(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = sweep("train")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="there is no sbatch, squeue, scontrol, scancel; log in to the cluster's login"):
        catch_up(nowhere.folder)


def test_slurm_forgets_and_slurm_is_away(make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that lost its memory has no row for the job. A controller that is away must not block a look."""
    with Cluster(nodes=1) as forgetful:
        use(forgetful, monkeypatch)
        lost = make_sweep(forgetful, "train")
        lost.launch(sbatch=LATER)
        forgetful.stop_controller()
        start = time.monotonic()
        complaint = settle([lost.run()], seconds=2.0)
        assert complaint and ("did not answer" in complaint or "Unable to contact" in complaint), complaint
        assert time.monotonic() - start < 4, "no longer than asked for, in all"
        assert lost.run().state() == "queued"
        forgetful.start_controller("-c")
        lost.must_become("failed")
        assert lost.failure()["kind"] == "lost" and "launch it again" in lost.failure()["remedy"]


@pytest.fixture
def accounted(monkeypatch: pytest.MonkeyPatch) -> Any:
    with Cluster(nodes=1, accounting=True) as cluster:
        use(cluster, monkeypatch)
        yield cluster


def test_with_accounting_nothing_is_lost(
    accounted: Cluster, make_sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slurmctld has forgotten the jobs and sacct has not; sacct is asked once for all of them."""
    remembered = make_sweep(accounted, "deaf", "train")
    remembered.launch()
    remembered.until_training(1)
    accounted.run("scancel", "--signal=KILL", "--full", remembered.job(1))
    remembered.until(lambda: not accounted.run("squeue", "-h"), "both over")
    job = remembered.job(1)
    remembered.until(lambda: "CANCELLED" in accounted.run("sacct", "-nXP", "-j", job, "-o", "State"), "a row in sacct")
    accounted.stop_controller()
    accounted.start_controller("-c")
    calls = Calls(accounted, tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", calls.environment["PATH"])
        remembered.run(2).record("submitted", job=remembered.job(2))  # as if nobody had recorded its end
        remembered.listed()
    assert calls.counted() == {"squeue": 1, "sacct": 1}
    remembered.must_become("cancelled", "failed")
    assert "COMPLETED" in remembered.failure(2)["cause"]
    assert not accounted.run("squeue", "-h", "-t", "all"), "slurmctld knew neither"
