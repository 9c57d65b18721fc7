"""Test experiments/processes/reaping.py on real processes that have left their parent or group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from experiments.errors import UserError
from experiments.processes.reaping import (
    SCRATCH,
    drop_dead_scratch,
    drop_shared_memory,
    of_run,
    reap,
    scratch_folder,
    scratch_prefix,
)
from experiments.variables import EXECUTION, MARKER, socket_mark

WaitFor = Callable[..., None]

# Makes a file named after its pid, then waits. "polite" records that it was asked; "stubborn" ignores what it can.
SLEEPER = """
import os, signal, sys, time
folder, manner = sys.argv[1:]
if manner == "stubborn":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
def asked(number, frame):
    with open(f"{folder}/{os.getpid()}", "w") as file:
        file.write("asked")
    os._exit(0)
if manner == "polite":
    signal.signal(signal.SIGTERM, asked)
if manner == "detached":  # the double fork of a daemon: no parent, no session, no group in common with its start
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
with open(f"{folder}/.{os.getpid()}", "w") as file:
    file.write(manner)
os.rename(f"{folder}/.{os.getpid()}", f"{folder}/{os.getpid()}")
time.sleep(300)
"""


class Zoo:
    """Processes in several places, each known by a file named after its pid."""

    def __init__(self, folder: Path, wait_for: WaitFor) -> None:
        self.folder, self.wait_for = folder, wait_for
        self.children: list[subprocess.Popen] = []

    def start(self, manner: str, marker: Path | None, execution: str | None = None) -> int:
        """Start one process; return its pid as soon as it is in its place."""
        before = self.pids()
        environment = {key: value for key, value in os.environ.items() if key != MARKER}
        if marker is not None:
            environment[MARKER] = str(marker)
        if execution is not None:
            environment[EXECUTION] = execution
        command = [sys.executable, "-S", "-E", "-c", SLEEPER, str(self.folder), manner]
        self.children.append(subprocess.Popen(command, env=environment))
        self.wait_for(lambda: self.pids() - before, f"the {manner} process starts")
        (pid,) = self.pids() - before
        return pid

    def pids(self) -> set[int]:
        return {int(file.name) for file in self.folder.iterdir() if file.name.isdecimal()}

    def close(self) -> None:
        for pid in self.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        for child in self.children:
            child.kill()
            child.wait()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def zoo(tmp_path: Path, wait_for: WaitFor) -> Iterator[Zoo]:
    (tmp_path / "pids").mkdir()
    zoo = Zoo(tmp_path / "pids", wait_for)
    yield zoo
    zoo.close()


def test_detached_and_stubborn_processes_are_ended_and_others_left_alone(zoo: Zoo, tmp_path: Path) -> None:
    run, longer_name = tmp_path / "run-1", tmp_path / "run-10"
    mine = [zoo.start(manner, run) for manner in ("plain", "detached", "stubborn")]
    others = [zoo.start("plain", longer_name), zoo.start("detached", longer_name), zoo.start("plain", None)]
    assert {process.pid for process in of_run(run)} == set(mine)
    assert reap(run, patience=0.3) == 3
    assert not any(map(alive, mine))
    assert all(map(alive, others))
    assert list(of_run(run)) == []


def test_one_execution_goes_and_the_next_one_stays(zoo: Zoo, tmp_path: Path) -> None:
    scratch = Path("/tmp") / f"{scratch_prefix(tmp_path)}{os.getpid()}"
    scratch.mkdir()
    first, second = zoo.start("detached", tmp_path, "first"), zoo.start("plain", tmp_path, "second")
    assert reap(tmp_path, execution="first") == 1
    assert not alive(first) and alive(second) and scratch.exists()
    assert reap(tmp_path) == 1
    assert not alive(second) and not scratch.exists()


def test_processes_are_asked_before_they_are_killed(zoo: Zoo, tmp_path: Path) -> None:
    pid = zoo.start("polite", tmp_path)
    assert reap(tmp_path, patience=30) == 1
    assert (zoo.folder / str(pid)).read_text() == "asked"


def test_the_temporary_folders_of_the_run_go_and_those_of_others_stay(tmp_path: Path) -> None:
    run = tmp_path / f"grpo,seed=1-{uuid4().hex[:8]}"
    mine = scratch_folder(scratch_prefix(run))
    (mine / "session").mkdir()
    (mine / "session" / "socket").touch()
    other = scratch_folder(scratch_prefix(tmp_path / "another folder" / run.name))
    try:
        assert reap(run) == 0
        assert not mine.exists() and other.exists()
    finally:
        other.rmdir()


def test_the_sockets_of_a_killed_run_go_and_those_of_others_stay(tmp_path: Path) -> None:
    """vLLM's, named as verl_plugin/rollout/vllm_socket.py has veRL name them."""
    names = (f"rl-colocate-zmq-01000000-{socket_mark(str(tmp_path / run))}-replica-0-rank-0.sock" for run in "ab")
    mine, other = (SCRATCH / name for name in names)
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(mine))
        two.bind(str(other))
    try:
        reap(tmp_path / "a")
        assert not mine.exists() and other.exists()
        drop_dead_scratch(tmp_path / "b")
        assert not other.exists()
    finally:
        mine.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


def test_a_place_that_takes_no_temporary_folder_is_told(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    for place, reason in ((taken, "Not a directory"), (tmp_path / "missing", "No such file or directory")):
        with pytest.raises(UserError, match=f"{place} must take temporary folders.*{reason}; make it a folder"):
            scratch_folder("r1z-", place)


def test_without_processes_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert reap(tmp_path) == 0


def test_the_dead_do_not_count(zoo: Zoo, tmp_path: Path, wait_for: WaitFor) -> None:
    """A zombie, dead but not yet collected by its parent, can't be ended again: reap must not wait for it."""
    pid = zoo.start("plain", tmp_path)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), "the process dies")
    assert psutil.pid_exists(pid), "it is a zombie until its parent looks"
    assert reap(tmp_path) == 0


def test_a_process_does_not_end_itself(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from experiments.processes.reaping import reap; "
        f"print(reap(Path({str(tmp_path)!r})))"
    )
    environment = {**os.environ, MARKER: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


SHARER = """
import sys, time
from multiprocessing import resource_tracker, shared_memory
memory = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(memory._name, "shared_memory")  # as where the tracker was ended first
print(memory.name, flush=True)
time.sleep(300)
"""


def test_shared_memory_goes_with_the_run_that_has_it(tmp_path: Path) -> None:
    segments = {}
    children = []
    for name in ("mine", "other"):
        environment = {**os.environ, MARKER: str(tmp_path / name)}
        child = subprocess.Popen([sys.executable, "-c", SHARER], env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        segments[name] = Path("/dev/shm") / child.stdout.readline().strip()
        children.append(child)
    try:
        assert segments["mine"].exists() and segments["other"].exists()
        drop_shared_memory(tmp_path / "nobody")
        assert segments["mine"].exists()
        assert reap(tmp_path / "mine") >= 1
        assert not segments["mine"].exists() and segments["other"].exists()
    finally:
        reap(tmp_path / "other")
        for child in children:
            child.wait()
    assert not segments["other"].exists()
