"""A submission: what is submitted, and that nothing is submitted if anything is wrong."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import experiments
from experiments.errors import UserError
from experiments.launchers.slurm.ray_cluster import NODE
from experiments.variables import NOTIFY, SWEEP
from tests.slurm.calls import Calls
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LATER, Sweeps, clear_up, queue, sweeps_in

BAD = (0, -1, 1.5, "x", True, None)


def of_eight(shape: dict[str, Any]) -> Any:
    """Return a change that gives every second seed n = 8, and gives runs with n = 8 the resources `shape`."""

    def change(config: dict[str, Any], seed: int) -> None:
        config["rollout"]["n"] = 5 if seed % 2 else 8
        config["hardware"]["resources"] = [{"cpus_per_task": 2}, {"when": {"rollout.n": 8}, **shape}]

    return change


def test_one_array_for_each_resource_shape(sweep: Sweeps) -> None:
    shapes = sweep(*["train"] * 4, change=of_eight({"cpus_per_task": 4, "time": "2:00:00", "gres": "gpu:1"}))
    shapes.launch(sbatch=LATER, cpus_per_task=None, time=None)
    jobs = [shapes.job(seed).split("_") for seed in (1, 2, 3, 4)]
    assert jobs[0][0] == jobs[2][0] != jobs[1][0] == jobs[3][0]
    assert [job[1] for job in jobs] == ["0", "0", "1", "1"]
    assert queue(shapes.cluster, "%F:%c:%l:%b") == sorted(
        [f"{jobs[0][0]}:2:2-00:00:00:N/A"] * 2 + [f"{jobs[1][0]}:4:2:00:00:gres:gpu:1"] * 2
    )


def test_a_job_that_printed_nothing_may_have_had_a_full_disk(sweep: Sweeps) -> None:
    mute = sweep("train")
    mute.launch(setup=["exit 1"])
    mute.until_over()
    mute.must_become("failed")
    cause = mute.failure()["cause"]
    assert "FAILED 1:0, and the job printed nothing: the disk was full, or a line of hydra.launcher.setup" in cause
    assert "df -h" in mute.failure()["remedy"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"partition": "nope"}, ["invalid partition specified: nope", "sinfo"]),
        ({"gpus_per_node": 9}, ["Requested node configuration is not available", "sinfo -N -l"]),
        ({"time": "2-0", "sbatch": {"no-such-flag": 1}}, ["unrecognized option"]),
        ({"time": "soon"}, ["hydra.launcher.time must be minutes", "'soon'"]),
        ({"mem": "much"}, ["hydra.launcher.mem must be", "'much'"]),
        ({"time": "1", "warning_seconds": 120}, ["hydra.launcher.time must hold a step"]),
        ({"time": "3-0"}, ["hydra.launcher.time must be at most 2-00:00:00 in main, but is 3-0", "sinfo"]),
        ({"nodes": 0}, ["hydra.launcher.nodes must be a whole number of at least 1, but is 0"]),
        ({"nodes": 2}, ["hydra.launcher.nodes must be hardware.nodes, which is 1, but is 2; set hardware.nodes"]),
        ({"warning_seconds": True}, ["hydra.launcher.warning_seconds must be a whole number"]),
        ({"account": 'a"b'}, ["--account must have neither spaces, quotes"]),
        ({"sbatch": {"comment": "a b"}}, ["--comment must have neither spaces"]),
        ({"sbatch": {"array": "0-9"}}, ["must not set array"]),
        ({"sbatch": {"wait": True}}, ["must not set wait"]),
        ({"sbatch": {"clusters": "all"}}, ["must not set clusters"]),
        ({"sbatch": {"time": "1"}}, ["must not set time, but does; set hydra.launcher.time instead"]),
        ({"sbatch": "exclusive"}, ["hydra.launcher.sbatch must be a mapping of sbatch's options, but is 'exclusive'"]),
        ({"setup": "module load cuda"}, ["hydra.launcher.setup must be a list of lines of shell, but is 'module load"]),
        ({"setup": 5}, ["hydra.launcher.setup must be a list of lines of shell, but is 5"]),
        ({"retries": -1}, ["hydra.launcher.retries must be a whole number of at least 0, but is -1"]),
        ({"requeue": "nope"}, ["hydra.launcher.requeue must be true or false, but is 'nope'"]),
        ({"partitoin": "gpu"}, ["hydra.launcher.partitoin must be a key", "did you mean hydra.launcher.partition"]),
        ({"wait": "nope"}, ["hydra.launcher.wait must be true or false, but is 'nope'"]),
        *[
            ({"arms_per_job": bad}, [f"arms_per_job must be a whole number of at least 1, but is {bad!r}"])
            for bad in BAD
        ],
        ({"arms_per_job": 0, "time": "soon"}, ["arms_per_job must be", "hydra.launcher.time must be minutes"]),
        ({"arms_per_job": 2, "nodes": 2}, ["arms_per_job must be 1 where hardware.nodes is above 1 (it is 2)"]),
        (
            {"arms_per_job": 2, "gpus_per_node": 2},
            ["arms_per_job must be at most 1, since no node has room for more runs that take --gpus-per-node=2 "],
        ),
        ({"arms_per_job": 5, "mem": "15G"}, ["--mem=15G each, but is 5; set hydra.launcher.arms_per_job=1"]),
    ],
)
def test_a_mistake_is_told_and_nothing_is_submitted(sweep: Sweeps, values: dict[str, Any], said: list[str]) -> None:
    mistaken = sweep("train", "train")
    with pytest.raises(UserError) as refused:
        mistaken.launch(**values)
    assert all(part in str(refused.value) for part in said), str(refused.value)
    assert queue(mistaken.cluster) == []
    assert "queued" not in mistaken.states()


def test_the_calls_do_not_grow_with_the_runs(sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    for runs in (3, 12):
        folder = tmp_path / str(runs)
        folder.mkdir()
        many = sweep(*["train"] * runs)
        calls = Calls(many.cluster, folder)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", calls.environment["PATH"])
            many.launch(sbatch=LATER)
            submitted = calls.counted()
            assert many.states() == ["queued"] * runs
        looked = {program: count - submitted.get(program, 0) for program, count in calls.counted().items()}
        counted.append((submitted, looked))
    assert counted[0] == counted[1]
    assert counted[0][0] == {"scontrol": 3, "sbatch": 2}, "the limits, of arrays and of partitions; a test; a release"
    assert counted[0][1]["squeue"] == 1


def test_one_shape_refused_takes_back_the_other(sweep: Sweeps) -> None:
    half = sweep("train", "train", change=of_eight({"gres": "gpu:9"}))
    with pytest.raises(UserError, match="node configuration is not available"):
        half.launch()
    assert queue(half.cluster) == []
    assert not any(run.folder.attempts() for run in half.runs)


def test_the_same_sweep_again_submits_nothing_while_it_is_queued(
    sweep: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = sweep("train", "train")
    twice.launch(sbatch=LATER)
    before = queue(twice.cluster)
    twice.launch(sbatch=LATER)
    assert queue(twice.cluster) == before
    assert "nothing to submit" in capsys.readouterr().out
    twice.cluster.run("scancel", twice.job(1))
    twice.must_become("cancelled", "queued")
    twice.launch(sbatch=LATER)
    assert len(queue(twice.cluster)) == 2, "what was cancelled is submitted again"


def test_a_failed_run_is_submitted_again_as_it_is_asked_for_then(sweep: Sweeps) -> None:
    """The second launch changes a setting that can't change the result, as the remedy of a failure may advise."""
    first = sweep("raise")
    first.launch()
    first.until_over()
    first.must_become("failed")
    assert first.seen()["save_freq"] == 1
    first.runs[0].config["trainer"]["save_freq"] = 3
    first.behaviours[1] = "train"
    first.launch()
    first.until_over()
    first.must_become("finished")
    assert first.seen()["save_freq"] == 3 and first.run().load_config("config.yaml")["trainer"]["save_freq"] == 1
    assert first.run().load_config()["trainer"]["save_freq"] == 3, "what the last attempt had"
    submitted = [event for event in first.run().events() if event["event"] == "submitted"]
    assert [event["config"] == "config.yaml" for event in submitted] == [True, False]
    code = first.run().path.parent / ".code" / submitted[1]["code"]
    assert Path(first.seen()["code"]).is_relative_to(code) and (code / "code.json").is_file()
    assert len(first.run().attempts()) == 2


def test_a_script_submitted_by_hand_does_the_same(sweep: Sweeps) -> None:
    by_hand = sweep("train")
    by_hand.launch(sbatch=LATER)
    by_hand.cluster.run("scancel", by_hand.job())
    by_hand.must_become("cancelled")
    job = by_hand.cluster.run("sbatch", "--parsable", "--begin=now", by_hand.run().path / "job.sh").strip()
    by_hand.until(lambda: by_hand.cluster.states()[job] == "COMPLETED", "the job")
    by_hand.must_become("finished")
    assert by_hand.job() == job


def test_what_a_job_sees(sweep: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job does not see the allocation of the submitting shell. It sees its GPUs once, and the code as submitted."""
    for name, value in {
        "SLURM_JOB_ID": "999",
        "SLURM_MEM_PER_NODE": "1",
        "SBATCH_PARTITION": "nope",
        "CUDA_VISIBLE_DEVICES": "7",
        "RAY_ADDRESS": "10.0.0.1:6379",
    }.items():
        monkeypatch.setenv(name, value)
    seeing = sweep("train", change=lambda config, seed: config["trainer"].update(device="cuda"))
    seeing.launch(gpus_per_node=2, cpus_per_task=3)
    seeing.until_over()
    seeing.must_become("finished")
    seen = seeing.seen()
    variables = seen["environment"]
    assert variables["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert variables["SLURM_CPUS_PER_TASK"] == "3" and variables["SLURM_JOB_ID"] != "999"
    assert not {"SBATCH_PARTITION", "RAY_ADDRESS", "ROCR_VISIBLE_DEVICES"} & set(variables)
    code = seeing.run().path.parent / ".code"
    assert Path(seen["code"]).is_relative_to(code) and Path(seen["reward"]).is_relative_to(code)
    assert Path(seen["reward"]).is_file()
    frozen = seeing.run().load_config()["reward"]["custom_reward_function"]["path"]
    assert Path(frozen).is_relative_to(Path(experiments.__file__).parent), "the frozen config names the origin"


def test_what_ray_sees_on_each_of_several_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """If gres.conf does not say the GPUs' make, SLURM names them once for each make; veRL accepts only one name."""
    ask = ("bash", "-c", "echo $CUDA_VISIBLE_DEVICES ${ROCR_VISIBLE_DEVICES-none}")
    step = ("srun", "--nodes=1", "--ntasks=1", "--gpus-per-node=2")
    assert cluster.run(*step, *ask) == "0,1 0,1\n"
    assert cluster.run(*step, "bash", "-c", NODE, tmp_path / "scratch", *ask) == "0,1 none\n"


def test_a_runs_folder_that_the_nodes_do_not_see(sweep: Sweeps) -> None:
    unseen = sweep("train")
    unseen.launch(sbatch=LATER)
    folder = unseen.folder / "runs"
    job = unseen.job()
    folder.rename(unseen.folder / "elsewhere")
    unseen.cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    unseen.until(lambda: unseen.cluster.states().get(job) == "FAILED", "the job")
    (unseen.folder / "elsewhere").rename(folder)
    unseen.must_become("failed")
    assert unseen.failure()["kind"] == "runs folder not visible" and "runs_dir" in unseen.failure()["remedy"]


def test_nodes_that_are_down_are_waited_for(sweep: Sweeps, capsys: pytest.CaptureFixture[str]) -> None:
    """SLURM says the same of a job that no node can run, now or ever: that one is still refused."""
    waiting, cluster = sweep("train"), sweep("train").cluster
    cluster.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=a fan is loud")
    cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    with pytest.raises(UserError, match="no node has that many GPUs"):
        waiting.launch(gpus_per_node=9)
    with pytest.raises(UserError, match="no node has that many GPUs"):
        waiting.launch(mem="20G")
    waiting.launch(mem="15G", gpus_per_node=2)
    said = " ".join(capsys.readouterr().out.split())
    job = waiting.job().split("_")[0]
    assert f"job {job} waits until a node is back: n1 is idle+drain (a fan is loud), n2 is down (test)" in said
    assert waiting.states() == ["queued"] and waiting.cluster.states()[waiting.job()] == "PENDING"
    waiting.cluster.bring_back("n1")
    waiting.until_over()
    waiting.must_become("finished")


def test_jobs_run_and_print_in_almost_any_folder(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a user's #1 %j =,$HOME;é [x]*"
    folder.mkdir()
    odd = sweeps_in(folder)(cluster, "train", "train")
    odd.launch()
    said = capsys.readouterr().out
    for command in ("experiments.runs --runs-dir {} list", "analysis.plot_ablation --runs {} "):
        assert command.format(shlex.quote(str(folder / "runs"))) in said
    odd.until_over()
    assert odd.states() == ["finished", "finished"]
    assert all((odd.run(seed).path / "job.log").is_file() for seed in (1, 2))
    clear_up(folder)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_folder_that_sbatch_can_t_name_is_refused(cluster: Cluster, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(UserError, match="runs_dir must have no double quote, backslash or line break"):
        sweeps_in(folder)(cluster, "train", "train").launch()
    assert queue(cluster) == []


def test_one_job_of_a_sweep_tells_of_its_end(sweep: Sweeps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable holds is in the environment of the jobs alone: no file of the runs has it."""
    told = tmp_path / "told"
    monkeypatch.setenv("TELL_ME", f"cat >> {told}; echo >> {told}")
    for name in (NOTIFY, SWEEP):  # the launch sets them
        monkeypatch.setenv(name, "")
    both = sweep("train", "train")
    both.launch(notify="TELL_ME")
    both.until_over()
    both.until(told.exists, "somebody was told", seconds=20)
    assert told.read_text().splitlines() == [f"2 runs ended: 2 finished; in {both.run().path.parent}"]
    files = [file for file in both.run().path.parent.rglob("*") if file.is_file() and "told-" not in file.name]
    assert len(files) > 10 and not any(str(told).encode() in file.read_bytes() for file in files)
