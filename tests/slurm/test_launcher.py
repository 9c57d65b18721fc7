"""`python -m experiments.run hydra/launcher=slurm`: the prompt comes back, and an interrupt leaves all jobs or none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from experiments.store.rundir import find_runs
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import STANDIN, start_requeued


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def command(folder: Path, data_dir: Path, *overrides: str) -> list[str]:
    setup = f"export PYTHONPATH=$PYTHONPATH:{STANDIN} STANDIN={folder}/behaviours.json"
    (folder / "behaviours.json").write_text('{"3": "until warned"}')
    small = ["hydra.launcher.mem=1000M", "hydra.launcher.cpus_per_task=1", f"hydra.launcher.setup=['{setup}']"]
    where = [f"runs_dir={folder / 'runs'}", f"data_dir={data_dir}", "experiment=smoke", "hydra/launcher=slurm"]
    return [sys.executable, "-m", "experiments.run", *where, *small, *overrides]


def states(folder: Path) -> list[str]:
    return [run.state() for run in find_runs(folder / "runs")]


def queue(cluster: Cluster) -> list[str]:
    return cluster.run("squeue", "-h", "-r", "-o", "%i").split()


def test_submit_go_away_and_ask_again(cluster: Cluster, tmp_path: Path, data_dir: Path) -> None:
    later = command(tmp_path, data_dir, "-m", "seed=1,2", LATER)
    first = subprocess.run(later, capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (job,) = {job.split("_")[0] for job in queue(cluster)}
    assert f"submitted job {job}: 2 runs" in first.stdout and "python -m experiments.runs" in first.stdout
    again = subprocess.run(later, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and "nothing to submit" in again.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "experiments.runs", "--runs-dir", str(tmp_path / "runs"), "list"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert listed.stdout.count("queued") >= 2, listed.stdout + listed.stderr
    assert len(queue(cluster)) == 2


def test_a_bad_partition_is_exit_code_2_and_one_message(cluster: Cluster, tmp_path: Path, data_dir: Path) -> None:
    refused = subprocess.run(
        command(tmp_path, data_dir, "hydra.launcher.partition=nope"), capture_output=True, text=True, cwd=tmp_path
    )
    assert refused.returncode == 2, refused.stderr
    assert "invalid partition specified: nope" in refused.stderr and "nothing was started" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert queue(cluster) == [] and states(tmp_path) == ["planned"]


def following(folder: Path, data_dir: Path, *overrides: str) -> tuple[subprocess.Popen[str], str]:
    """Launch with `wait` and without a terminal; return (the launcher, what it prints up to its first look)."""
    launcher = subprocess.Popen(
        command(folder, data_dir, "hydra.launcher.wait=true", *overrides),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert launcher.stdout
    printed = ""
    for line in launcher.stdout:
        printed += line
        if COUNTS.fullmatch(line.strip()):
            return launcher, printed
    raise AssertionError(f"it did not look: {launcher.wait()}\n{printed}")


LATER = "+hydra.launcher.sbatch.begin=now+1hour"
COUNTS = re.compile(r"(\d (queued|running|finished)(, )?)+")


def test_wait_follows_to_the_end(cluster: Cluster, tmp_path: Path, data_dir: Path) -> None:
    launcher, printed = following(tmp_path, data_dir, "-m", "seed=1,2", LATER)
    (job,) = {job.split("_")[0] for job in queue(cluster)}
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    rest, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, printed + rest
    assert states(tmp_path) == ["finished", "finished"]
    followed = (printed + rest).split("the figures, of what is there")[1].splitlines()
    counts = [line for line in followed if COUNTS.fullmatch(line)]
    assert (counts[0], counts[-1]) == ("2 queued", "2 finished"), followed
    rows = [re.split(r"\s*│\s*", line)[1:3] for line in followed if "seed=" in line]
    assert rows == [["seed=1", "finished"], ["seed=2", "finished"]], followed


def test_wait_on_a_terminal_shows_a_table_and_outlasts_a_requeue(
    cluster: Cluster, tmp_path: Path, data_dir: Path
) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 150, 0, 0))
    launcher = subprocess.Popen(
        command(tmp_path, data_dir, "seed=3", "trainer.total_training_steps=6", "hydra.launcher.wait=true"),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    shown: list[bytes] = []
    reader = threading.Thread(target=read_to_the_end, args=(ours, shown), daemon=True)
    reader.start()

    def until_shown(state: bytes) -> None:
        deadline = time.monotonic() + 120
        while not re.search(state + rb"\s*\S*\s*3/6", PAINT.sub(b"", b"".join(shown))):
            assert time.monotonic() < deadline and launcher.poll() is None, b"".join(shown)
            time.sleep(0.05)

    until_shown(b"running")
    (job,) = queue(cluster)
    cluster.run("scancel", "--signal=USR1", "--batch", job)
    until_shown(b"queued")
    start_requeued(cluster, job)
    assert launcher.wait(120) == 0, b"".join(shown)
    reader.join(10)
    screen = PAINT.sub(b"", b"".join(shown)).decode()
    rows = re.findall(r"│ \S*seed=3 +│ (\w+) +│ (\d)/6 +│", screen)
    assert ("running", "3") in rows and ("queued", "3") in rows and rows[-1] == ("finished", "6"), screen
    assert rows.index(("running", "3")) < rows.index(("queued", "3")), "between its two lives"


PAINT = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def read_to_the_end(terminal: int, into: list[bytes]) -> None:
    """Collect what is written to a terminal until no process has it open any more."""
    with contextlib.suppress(OSError):
        while text := os.read(terminal, 65_536):
            into.append(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupt_while_submitting_takes_everything_back(
    cluster: Cluster, tmp_path: Path, data_dir: Path, number: signal.Signals
) -> None:
    """The real sbatch is made to wait, so that the signal comes while sbatch works."""
    slow, begun, go = tmp_path / "bin" / "sbatch", tmp_path / "begun", tmp_path / "go"
    slow.parent.mkdir()
    wait = f"touch {begun}; until [ -e {go} ]; do sleep 0.1; done"
    slow.write_text(f'#!/bin/bash\n{wait}\nexec {cluster.base}/bin/sbatch "$@"\n')
    slow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"}
    launcher = subprocess.Popen(
        command(tmp_path, data_dir, "-m", "seed=1,2"),
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.01)
    os.killpg(launcher.pid, number)
    go.touch()
    launcher.wait(60)
    assert launcher.returncode == 130
    assert queue(cluster) == []
    assert not {"queued", "running"} & set(states(tmp_path))


def test_an_interrupt_while_waiting_leaves_the_jobs_alone(cluster: Cluster, tmp_path: Path, data_dir: Path) -> None:
    launcher, _ = following(tmp_path, data_dir, "seed=3", "trainer.total_training_steps=6")
    deadline = time.monotonic() + 60
    while states(tmp_path) != ["running"]:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.05)
    os.killpg(launcher.pid, signal.SIGINT)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130 and "the jobs go on" in said
    assert states(tmp_path) == ["running"] and len(queue(cluster)) == 1
