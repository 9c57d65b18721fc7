"""One real SLURM cluster that the tests of this folder share, and sweeps to submit to it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from omegaconf import OmegaConf

from experiments.config.compose import compose_config, plain
from experiments.launchers.slurm.launch import launch
from experiments.launchers.slurm.queue import Job, ask
from experiments.launchers.slurm.run_job import RunJob, run_job
from experiments.launchers.slurm.settle import settle
from experiments.planning.plan import PlannedRun
from experiments.processes import reaping
from experiments.project import CONFIG_DIR
from experiments.runs.find import Filters
from experiments.runs.listing import read_all
from experiments.store.rundir import RunDir
from tests.slurm.cluster import Cluster

STANDIN = Path(__file__).parent / "standin"
LATER = {"begin": "now+1hour"}  # jobs that stay in the queue
LOOK_SECONDS = 5.0  # how soon after SLURM knows it `runs list` must know it

PREEMPTION = {"PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE"}
PARTITIONS = """\
PartitionName=main Nodes=ALL Default=YES MaxTime=2-0 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancel Nodes=ALL MaxTime=2-0 PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=2-0 PriorityTier=10 PreemptMode=OFF"""


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster(settings=PREEMPTION, partitions=PARTITIONS) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The shared cluster without jobs; this process is a user of it."""
    use(shared_cluster, monkeypatch)
    yield shared_cluster
    shared_cluster.cancel_all()


def use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a user of the cluster."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])


def queue(cluster: Cluster, form: str = "%i") -> list[str]:
    """Return what squeue prints of the cluster's jobs, a job a line, sorted."""
    return sorted(cluster.run("squeue", "-h", "-r", "-o", form).split())


@cache
def smoke() -> dict[str, Any]:
    local = ["~local"] if (CONFIG_DIR / "local" / "default.yaml").exists() else []
    return plain(compose_config(["experiment=smoke", "trainer.total_training_steps=6", *local]), resolve=True)


def launcher_defaults() -> dict[str, Any]:
    values = yaml.safe_load((CONFIG_DIR / "hydra" / "launcher" / "slurm.yaml").read_text())
    del values["_target_"]
    return values


@dataclass
class Sweep:
    """Runs on a cluster, one for each seed, with the stand-in for the attempt."""

    cluster: Cluster
    folder: Path
    runs: list[PlannedRun]
    behaviours: dict[int, str]

    def launch(self, notify: str | None = None, **values: Any) -> int:
        """Submit the runs as the launcher does."""
        file = self.folder / "behaviours.json"
        file.write_text(json.dumps(self.behaviours))
        setup = [f"export PYTHONPATH=$PYTHONPATH:{STANDIN} STANDIN={shlex.quote(str(file))}"]
        small = {"cpus_per_task": 1, "mem": "1000M", "time": "1:00:00", "warning_seconds": 20, "setup": setup}
        return launch(self.runs, {**launcher_defaults(), **small, "retries": 0, **values}, notify)

    def run(self, seed: int = 1) -> RunDir:
        return self.runs[seed - 1].folder

    def job(self, seed: int = 1) -> str:
        """Return the id of the run's last job."""
        job = run_job(self.run(seed).events())
        assert job, f"seed {seed} was not submitted"
        return job.id

    def seen(self, seed: int = 1) -> dict[str, Any]:
        """Return what the stand-in noted about its job in the run's last attempt."""
        return json.loads((self.run(seed).attempts()[-1].path / "seen.json").read_text())

    def states(self) -> list[str]:
        """Ask SLURM once, and return each run's state."""
        assert settle([run.folder for run in self.runs], seconds=20.0) is None
        return [run.folder.state() for run in self.runs]

    def listed(self) -> list[str]:
        """Return each run's state as `runs list` shows it."""
        statuses, _ = read_all(self.run().path.parent, Filters([]))
        shown = {status.run.path: status.state for status in statuses}
        return [shown[run.folder.path] for run in self.runs]

    def failure(self, seed: int = 1) -> dict[str, Any]:
        """Return the run's last event, which must be a failure."""
        last = self.run(seed).events()[-1]
        assert last["event"] == "failed", last
        return last

    def until(self, true: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s; {self.states()}\n{self.told()}")
            time.sleep(0.1)

    def told(self) -> str:
        """Return what SLURM and the jobs say, for the message of a test that fails."""
        logs = [file.read_text() for run in self.runs for file in run.folder.path.glob("job.log")]
        return "\n".join([self.cluster.run("squeue", "-t", "all"), self.cluster.logs(), *logs])

    def until_waiting(self, seed: int = 1) -> str:
        """Wait until SLURM has the run's job in the queue again; return its id."""
        job = self.job(seed)
        self.until(lambda: self.cluster.states()[job] == "PENDING", f"job {job} waits again")
        return job

    def until_training(self, seed: int = 1, attempt: int = 1, step: int = 3) -> None:
        run = self.run(seed)
        self.until(lambda: len(run.attempts()) == attempt and run.last_step() >= step, f"seed {seed} at step {step}")

    def until_over(self) -> dict[str, Job]:
        """Wait until SLURM says that every job has ended; return what it says."""
        jobs = [self.job(run.config["seed"]) for run in self.runs]
        self.until(lambda: all(job.ended for job in look(*jobs).values()), "all jobs ended")
        return look(*jobs)

    def must_become(self, *states: str) -> None:
        """Assert that `runs list` shows these states within LOOK_SECONDS. Call it when SLURM knows what happened."""
        deadline = time.monotonic() + LOOK_SECONDS
        while (shown := self.listed()) != list(states) and time.monotonic() < deadline:
            time.sleep(0.1)
        late = time.monotonic() - deadline
        assert shown == list(states) and late < 0, f"{shown}, not {states}, {late:+.1f} s late; {self.told()}"

    def start_now(self, job: str) -> None:
        start_requeued(self.cluster, job)


def look(*jobs: str) -> dict[str, Job]:
    """Return what SLURM knows of jobs of ours, by id."""
    answer = ask([RunJob(job) for job in jobs], 20.0)
    return {job: found for job in jobs if (found := answer.of(RunJob(job))) is not None}


SLURMD_SECONDS = 4.0  # slurmd removes a job's script in this time; a job that is restarted within it fails


def start_requeued(cluster: Cluster, job: str, seconds: float = 180.0) -> None:
    """Start a requeued job as soon as its processes from before are gone: SLURM would let it wait for two minutes.

    A node knows a job only by its number, and the nodes of the test share one machine: so the daemon of the job's steps
    from before must be gone. (A real node that failed would have lost it.) If the machine is slow to clean up, the
    job's start fails and SLURM holds the job: then this releases it, as an administrator would.
    """
    deadline = time.monotonic() + seconds
    while (now := look(job)[job]).reason != "BeginTime":
        assert time.monotonic() < deadline, f"the former life is not over: {now}"
        time.sleep(0.1)
    number = cluster.run("scontrol", "show", "job", job).split("JobId=")[1].split()[0]
    while True:
        _, living = psutil.wait_procs(step_daemons(cluster, number), timeout=5)
        for daemon in living:
            with contextlib.suppress(psutil.NoSuchProcess):
                daemon.kill()
        time.sleep(SLURMD_SECONDS)
        cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        while not (now := look(job)[job]).ended and "held" not in now.reason:
            assert time.monotonic() < deadline, f"does not start: {now}"
            if step_daemons(cluster, number):
                break
            time.sleep(0.1)
        time.sleep(1.0)  # a start that fails does so within this time
        now = look(job)[job]
        if "held" not in now.reason:
            return
        cluster.run("scontrol", "release", job)


def step_daemons(cluster: Cluster, number: str) -> list[psutil.Process]:
    """Return the living slurmstepd processes of the job with this number, on any node of the cluster."""
    found = []
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith(f"slurmstepd: [{number}."):
                found.append(process)
    return found


Sweeps = Callable[..., Sweep]


def sweeps_in(folder: Path) -> Sweeps:
    """Return a function that makes a sweep in a folder, for a cluster and the behaviours of seeds 1, 2, ..."""

    def make(cluster: Cluster, *behaviours: str, change: Callable[[dict[str, Any], int], None] | None = None) -> Sweep:
        runs = []
        for seed, _ in enumerate(behaviours, 1):
            config = copy.deepcopy(smoke())
            config["seed"] = seed
            config["tracking"] |= {"group": "baseline", "tags": [f"seed={seed}"]}
            if change:
                change(config, seed)
            name = f"seed={seed}-{os.urandom(4).hex()}"
            run = RunDir(folder / "runs" / name)
            config["trainer"]["default_local_dir"] = str(run.checkpoints)
            steps = config["trainer"]["total_training_steps"]
            runs.append(PlannedRun(name, run, config, OmegaConf.create(config), steps, "planned", 0))
        return Sweep(cluster, folder, runs, dict(enumerate(behaviours, 1)))

    return make


def clear_up(folder: Path) -> None:
    """Remove the temporary folders of killed attempts, as the runs' next attempts would."""
    for run in (folder / "runs").glob("*"):
        for scratch in reaping.SCRATCH.glob(f"{reaping.scratch_prefix(run)}*"):
            reaping.drop_folder(scratch)


@pytest.fixture
def make_sweep(tmp_path: Path) -> Iterator[Sweeps]:
    yield sweeps_in(tmp_path)
    clear_up(tmp_path)


@pytest.fixture
def sweep(make_sweep: Sweeps, cluster: Cluster) -> Sweeps:
    """Make a sweep on the shared cluster: one run for each behaviour."""
    return lambda *behaviours, **values: make_sweep(cluster, *behaviours, **values)


@pytest.fixture(scope="session")
def overdue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sweep]]:
    """Runs that exceed their time limits, on their own cluster. SLURM takes minutes to notice: other tests go first.

    "step": its third step never ends, and SLURM itself warns it. "setup": its setup lines never end.
    """
    with Cluster(nodes=1, settings={"MinJobAge": 3600}) as own, pytest.MonkeyPatch.context() as patch:
        use(own, patch)
        step, setup = (sweeps_in(tmp_path_factory.mktemp(name))(own, "deaf") for name in ("step", "setup"))
        step.launch(time="2", warning_seconds=20)
        setup.launch(time="1", warning_seconds=1, setup=["trap '' USR1", "sleep 600"])
        patch.undo()
        yield {"step": step, "setup": setup}
    for sweep in (step, setup):
        clear_up(sweep.folder)
