"""What a cluster allows: arrays, queues, accounts and QOS."""

from __future__ import annotations

import getpass
from typing import Any

import pytest

from experiments.errors import UserError
from experiments.runs.__main__ import main
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LATER, Sweeps, queue, use


@pytest.mark.parametrize("limit", [{"MaxArraySize": 3}, {"SchedulerParameters": "max_array_tasks=3"}])
def test_an_array_above_the_cluster_s_limit_is_split(
    make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]
) -> None:
    with Cluster(nodes=1, settings=limit) as small:
        use(small, monkeypatch)
        many = make_sweep(small, *["train"] * 7)
        many.launch(sbatch=LATER)
        assert len(queue(small)) == 7
        assert sorted(many.job(seed) for seed in range(1, 8)) == queue(small)
        assert len({many.job(seed).split("_")[0] for seed in range(1, 8)}) == 3


def test_a_cluster_without_arrays_and_one_whose_queue_is_full(
    make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.launchers.slurm.submission.SBATCH_SECONDS", 2.0)
    monkeypatch.setattr("experiments.launchers.slurm.commands.LATE_SECONDS", 0.0)
    with Cluster(nodes=1, settings={"MaxArraySize": 0, "MaxJobCount": 3}) as plain:
        use(plain, monkeypatch)
        two = make_sweep(plain, "train", "train")
        two.launch(sbatch=LATER)
        assert queue(plain) == sorted(two.job(seed) for seed in (1, 2)) and "_" not in two.job()
        plain.run("scontrol", "update", f"JobId={two.job(2)}", "StartTime=now")
        two.must_become("queued", "queued")
        third = make_sweep(plain, "train")
        with pytest.raises(UserError, match=r"the cluster's queue is full \(MaxJobCount"):
            third.launch()
        two.until(lambda: two.states() == ["queued", "finished"], "the second run")
        assert (two.run(2).path / "job.log").is_file()


def test_an_account_and_a_qos_that_there_are_not(make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    enforced = {"AccountingStorageEnforce": "associations,qos"}
    with Cluster(nodes=1, accounting=True, settings=enforced) as strict:
        use(strict, monkeypatch)
        for what in (("account", "mine"), ("user", getpass.getuser(), "account=mine")):
            strict.run("sacctmgr", "-i", "add", *what)
        mistaken = make_sweep(strict, "train")
        for values, said in (
            ({"account": "nope"}, "Invalid account.*hydra.launcher.account is nope; sacctmgr show associations"),
            ({"account": "mine", "qos": "nope"}, "Invalid qos.*hydra.launcher.qos is nope; sacctmgr show qos"),
        ):
            with pytest.raises(UserError, match=said):
                mistaken.launch(**values)
        mistaken.launch(account="mine", sbatch=LATER)
        assert mistaken.states() == ["queued"]


def test_the_limits_of_a_qos(
    make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    enforced = {"AccountingStorageEnforce": "associations,limits,qos"}
    with Cluster(nodes=1, accounting=True, settings=enforced) as strict:
        use(strict, monkeypatch)
        limits = ("set", "MaxSubmitJobsPerUser=2", "MaxWall=30", "MaxJobsPerUser=1")
        strict.run("sacctmgr", "-i", "modify", "qos", "normal", *limits)
        for what in (("account", "mine"), ("user", getpass.getuser(), "account=mine")):
            strict.run("sacctmgr", "-i", "add", *what)
        three = make_sweep(strict, "train", "train", "train")
        said = r"job submit limit.*your account or QOS allows less.*sacctmgr show qos.*submit fewer runs"
        with pytest.raises(UserError, match=said):
            three.launch(account="mine")
        assert queue(strict) == [] and three.states() == ["planned"] * 3
        long = make_sweep(strict, "train")
        long.launch(account="mine")  # for an hour
        long.until(lambda: "QOSMaxWall" in strict.run("squeue", "-h", "-o", "%r"), "the reason")
        long.must_become("queued")
        assert main(["--runs-dir", str(long.run().path.parent), "list"]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "QOSMaxWallDurationPerJobLimit" in told and "submit it again with another hydra.launcher.time" in told
        strict.cancel_all()
        two = make_sweep(strict, "train", "train")
        two.launch(account="mine", time="0:20:00")  # one after the other: the second waits, and nothing is wrong
        two.until_training(1)
        assert not any(event["event"] == "held" for event in two.run(2).events())
        two.until_over()
        two.must_become("finished", "finished")
