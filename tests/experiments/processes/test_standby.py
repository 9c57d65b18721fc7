"""Test the processes that a launch keeps ready: they are real, and nothing is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from experiments.processes import reaping, standby
from experiments.processes.standby import Standby, is_wanted, ray_options
from experiments.project import PROJECT_DIR

WaitFor = Callable[..., None]

CPU = {"hardware": {"fast": True}, "trainer": {"device": "cpu"}, "ray_kwargs": {"ray_init": {"num_cpus": 2}}}


def test_a_run_without_helpers_gets_plain_python_and_the_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    for config in ({**CPU, "hardware": {"fast": False}}, {**CPU, "trainer": {"device": "cuda"}}):
        assert not is_wanted(config)
        with contextlib.closing(Standby()) as standby:
            standby.prepare([config])
            command, variables = standby.python(config, tmp_path)
            assert command == [sys.executable, "-P"]
            assert variables == {"PYTHONPATH": f"{tmp_path}:mine", "R1Z_CODE_ORIGIN": str(PROJECT_DIR)}


def test_a_cluster_is_shared_by_runs_with_the_same_options_whatever_their_processes_environment() -> None:
    same = {**CPU, "ray_kwargs": {"ray_init": {"num_cpus": 2, "runtime_env": {"py_executable": None}}}}
    assert ray_options(CPU) == ray_options(same) == {"num_cpus": 2}


def test_the_options_of_a_composed_config_are_those_of_the_resolved_one() -> None:
    """The options go to another process as JSON, and a cluster that was started early is kept if they are equal."""
    given = {"num_gpus": "${hardware.gpus_per_node}", "_system_config": {"a": [1, {"b": None}]}}
    composed = OmegaConf.create({"hardware": {"gpus_per_node": 3}, "ray_kwargs": {"ray_init": given}})
    expected = {"num_gpus": 3, "_system_config": {"a": [1, {"b": None}]}}
    assert json.loads(json.dumps(ray_options(composed))) == expected


def test_helpers_are_foreseen_for_a_run_that_takes_them_and_end_if_nobody_does() -> None:
    launch = Standby()
    launch.foresee({**CPU, "trainer": {"device": "cuda"}})
    assert launch.server is None and not launch.clusters
    launch.foresee(CPU)
    helpers = [launch.server, *launch.clusters.values()]
    assert all(helper is not None and helper.process.poll() is None for helper in helpers)
    launch.close()
    assert launch.server is None and not launch.clusters
    assert_nothing_is_left_of([helper.folder for helper in helpers if helper is not None])


def test_a_launch_takes_the_cluster_that_was_foreseen_unless_its_runs_want_another(tmp_path: Path) -> None:
    for foreseen in (2, 3):
        with contextlib.closing(Standby()) as launch:
            launch.foresee({**CPU, "ray_kwargs": {"ray_init": {"num_cpus": foreseen}}})
            cluster, server = launch.clusters[0], launch.server
            launch.prepare([CPU])
            assert launch.server is server
            assert (launch.clusters[0] is cluster) == (foreseen == 2)
            assert launch.clusters[0].options == {"num_cpus": 2}
            assert (cluster.process.poll() is None) == (foreseen == 2)
        assert cluster.process.poll() is not None


def test_each_place_has_a_cluster_of_its_own_and_one_that_failed_is_replaced_alone(tmp_path: Path) -> None:
    with contextlib.closing(Standby()) as launch:
        launch.prepare([CPU])
        for place in (0, 1):
            launch.is_ready(CPU, place)
        first, second = launch.clusters[0], launch.clusters[1]
        assert first.folder != second.folder
        launch.drop_cluster(1)
        assert second.process.poll() is not None and first.process.poll() is None
        assert launch.is_ready(CPU, 1) is False, "a new one has begun to start"
        assert launch.clusters[1] is not second and launch.clusters[0] is first


@pytest.mark.parametrize(
    ("arguments", "guessed"),
    [
        (["-m", "rollout.temperature=0.6,1.0", "seed=1,2"], True),
        (["show=plan"], False),
        (["-m", "hydra/launcher=slurm"], False),
        (["hardware.threads=2", "hardware.gpus_per_node=2"], True),
        (["+hardware.fast=false"], False),
        (["hardware=cuda"], False),
        (["experiment=article_grpo"], False),
        (["--config-dir", "mine"], False),
    ],
)
def test_the_command_line_is_guessed_by_and_a_wrong_guess_is_corrected(
    arguments: list[str], guessed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(standby, "LOCAL", tmp_path / "default.yaml")
    launch = Standby()
    launch.guess(arguments)
    assert (launch.server is not None) == guessed
    guess = launch.server
    launch.foresee(CPU)
    assert launch.server is not None and guess in (None, launch.server), "one is enough"
    launch.foresee({**CPU, "hardware": {"fast": False}})
    assert launch.server is None and not launch.clusters
    standby.LOCAL.touch()
    launch.guess(arguments)
    assert launch.server is None, "the user's own file may decide otherwise"


LAUNCHER = """
import sys, time
from experiments.processes.standby import Standby
config = {"hardware": {"fast": True}, "trainer": {"device": "cpu"}, "ray_kwargs": {"ray_init": {"num_cpus": 2}}}
standby = Standby()
standby.prepare([config])
try:
    print(standby.server.folder, standby.clusters[0].folder, flush=True)
    standby.clusters[0].wait()
    print("up", flush=True)
    time.sleep(600)
finally:
    standby.close()
"""


IN_THE_MIDDLE = 2.0  # seconds: the helpers are importing, or Ray is starting


def launched() -> tuple[subprocess.Popen[str], list[Path]]:
    """Start a launch that waits; return it and the folders of its helpers."""
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert launcher.stdout is not None
    folders = [Path(path) for path in launcher.stdout.readline().split()]
    return launcher, folders


@pytest.mark.parametrize(
    ("ending", "after"),
    [(signal.SIGINT, "up"), (signal.SIGKILL, "up"), (signal.SIGKILL, IN_THE_MIDDLE), (signal.SIGKILL, 0.0)],
)
def test_fork_server_and_ray_cluster_end_with_the_launcher(ending: signal.Signals, after: float | str) -> None:
    launcher, folders = launched()
    assert launcher.stdout is not None and len(folders) == 2
    if after == "up":
        assert launcher.stdout.readline() == "up\n"
        (raylet,) = (process for process in reaping.of_run(folders[1]) if process.name() == "raylet")
        assert any(str(folders[1] / "python") in argument for argument in raylet.cmdline()), "its workers start sooner"
    else:
        time.sleep(float(after))
    os.kill(launcher.pid, ending)
    launcher.wait()
    launcher.stdout.close()
    assert_nothing_is_left_of(folders)


def test_nothing_is_left_of_a_launcher_that_is_killed_while_it_ends_its_helpers(wait_for: WaitFor) -> None:
    launcher, folders = launched()
    assert launcher.stdout is not None and launcher.stdout.readline() == "up\n"
    (head,) = (
        child
        for child in psutil.Process(launcher.pid).children()
        if "experiments.processes.ray_head" in child.cmdline()
    )
    os.kill(launcher.pid, signal.SIGINT)
    wait_for(lambda: "raylet" not in names(folders[1]), "the cluster is going", 30)
    os.kill(launcher.pid, signal.SIGSTOP)  # it still lives, but does nothing any more
    wait_for(lambda: head.status() == psutil.STATUS_ZOMBIE, "the helper has ended", 30)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    assert_nothing_is_left_of(folders)


def names(folder: Path) -> list[str]:
    """Return the names of a helper's processes."""
    found = []
    for process in reaping.of_run(folder):
        with contextlib.suppress(psutil.Error):
            found.append(process.name())
    return found


def assert_nothing_is_left_of(folders: list[Path]) -> None:
    deadline = time.monotonic() + 60
    left: list[object] = [*folders]
    while left and time.monotonic() < deadline:
        living = [process for folder in folders for process in reaping.of_run(folder)]
        left = [*living, *(folder for folder in folders if folder.exists())]
        time.sleep(0.2)
    assert left == []
