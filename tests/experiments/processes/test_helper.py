"""Test a process beside the runs and its folder: the processes are real, and nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from experiments.processes import endings, reaping
from experiments.processes.helper import Helper, HelperEnded
from experiments.processes.standby import RayCluster

READY = """
import subprocess, sys, time
from pathlib import Path
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
Path(sys.argv[1], "ready").write_text("yes")
time.sleep(600)
"""


def test_a_helper_is_waited_for_and_goes_with_what_it_started() -> None:
    helper = Helper("fork", "ready", ["-c", READY, "{folder}"], {})
    assert helper.wait().read_text() == "yes"
    child = next(process for process in reaping.of_run(helper.folder) if process.pid != helper.process.pid)
    helper.close()
    assert not helper.folder.exists()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_helper_that_ends_too_early_is_told_with_the_remedy() -> None:
    helper = Helper("ray", "ready", ["-c", "raise OSError(28, 'No space left on device')"], {})
    try:
        with pytest.raises(HelperEnded) as raised:
            helper.wait()
    finally:
        helper.close()
    failure = raised.value.failure
    assert failure.kind == "disk full"
    assert failure.cause.startswith(f"the Ray head of the launch (process {helper.process.pid}) ended with 1: ")
    assert "No space left on device" in failure.cause and "set hardware.fast=false" in failure.remedy


def test_a_helper_that_is_never_ready_is_told_with_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.processes.helper.START_SECONDS", 1.0)
    says = "import time; print('Failed to start the GCS', flush=True); time.sleep(600)"
    helper = Helper("ray", "ready", ["-c", says], {})
    try:
        with pytest.raises(HelperEnded, match="it was not ready after 1 s: Failed to start the GCS"):
            helper.wait()
    finally:
        helper.close()


def test_a_ray_head_that_does_not_come_up_leaves_its_log() -> None:
    """The launcher reads it. (Ray refuses this option.)"""
    cluster = RayCluster({"num_cpus": 1, "no_such_option": 1})
    try:
        with pytest.raises(HelperEnded, match=r"the Ray head of the launch .* ended with 1: .*no_such_option"):
            cluster.wait()
    finally:
        cluster.close()
    assert not cluster.folder.exists()


def test_a_dead_daemon_is_told_before_its_head_has_ended() -> None:
    """The head takes its time to go: the attempt that Ray ended with the daemon is judged before that."""
    helper = Helper("ray", "ready", ["-c", READY, "{folder}"], {})
    helper.wait()
    endings.note(helper.folder, 11, 0, "dashboard")
    assert helper.ending() is None
    endings.note(helper.folder, 12, -9, "raylet")
    assert helper.process.poll() is None
    assert helper.ending() == "Ray's raylet (process 12) was killed by SIGKILL"
    helper.close()


LAUNCHER = f"""
import time
from experiments.processes.helper import Helper
helper = Helper("fork", "ready", ["-c", {READY!r}, "{{folder}}"], {{}})
helper.wait()
print(helper.folder, helper.process.pid, flush=True)
time.sleep(600)
"""


def test_what_a_killed_launcher_and_its_killed_helper_left_goes_with_the_next_and_what_lives_stays() -> None:
    living = Helper("ray", "ready", ["-c", READY, "{folder}"], {})
    living.wait()
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    place, pid = launcher.stdout.readline().split()
    helper = psutil.Process(int(pid))
    (child,) = helper.children()
    helper.kill()
    launcher.kill()
    launcher.communicate()
    assert Path(place).exists() and child.is_running()
    Helper("fork", "ready", ["-c", READY, "{folder}"], {}).close()
    assert not Path(place).exists()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert living.folder.exists() and living.process.poll() is None
    living.close()
    assert not living.folder.exists()
