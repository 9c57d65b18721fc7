"""attempt/memory_peak.py and store/memory_peak.py: what all processes of an attempt take together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from experiments.attempt.memory_peak import MemoryPeak, shared_out
from experiments.store.memory_peak import MEMORY, note_peak, peak_of
from experiments.store.rundir import Attempt, RunDir
from experiments.variables import MARKER

MIB = 2**20
BLOCK = 200 * MIB
# Takes a block, and says so. With 1, a child shares the block; with 2, the child writes to it and so has its own.
PROGRAM = f"""
import os, sys, time
block = bytearray(b"x" * {BLOCK})
child = int(sys.argv[1]) and os.fork()
if sys.argv[1] == "2" and not child:
    block[::4096] = b"y" * len(block[::4096])
os.write(1, b"ready\\n")  # at once: print may write the end of the line apart, and another process in between
time.sleep(600)
"""


@contextmanager
def taking(run: Path, children: str = "0", marked: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program that takes a block of memory; `children`: PROGRAM's argument."""
    environment = {**os.environ, **({MARKER: str(run)} if marked else {})}
    command = [sys.executable, "-c", PROGRAM, children]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        for _ in range(1 if children == "0" else 2):
            assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    path = tmp_path / "run-12345678" / "attempts" / "1"
    path.mkdir(parents=True)
    found = Attempt(1, path)
    found.metrics.write_text(json.dumps({"step": 1, "data": {"perf/time_per_step": 1.0}}) + "\n")
    return found


@pytest.mark.parametrize(("children", "blocks"), [("0", 1), ("1", 1), ("2", 2)])
def test_what_processes_share_counts_once(tmp_path: Path, children: str, blocks: int) -> None:
    with taking(tmp_path, children) as process:
        family = psutil.Process(process.pid)
        assert shared_out([family, *family.children()]) == pytest.approx(blocks * BLOCK, abs=30 * MIB)


def test_the_peak_is_of_the_run_s_processes_and_of_its_ray_head_and_is_kept(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.attempt.memory_peak.LOOK_SECONDS", 0.0)
    run = RunDir(attempt.path.parents[1])
    with taking(run.path, marked=False) as head:
        memory = MemoryPeak(run.path, attempt, head.pid)
        memory.look()
        alone = peak_of(run)
        assert alone == memory.peak > BLOCK
        with taking(run.path), taking(run.path.with_name("another"), marked=True):
            memory.look()
        both = peak_of(run)
        assert both - alone == pytest.approx(BLOCK, abs=30 * MIB)
    memory.look()
    assert peak_of(run) == both, "its processes have ended, and its head"


def test_before_the_first_trained_step_nothing_is_measured(attempt: Attempt) -> None:
    """A validation before the training has a row, too."""
    run, row = RunDir(attempt.path.parents[1]), attempt.metrics.read_text()
    attempt.metrics.write_text(json.dumps({"step": 0, "data": {"val-core/countdown/acc/mean@1": 0.1}}) + "\n")
    memory = MemoryPeak(run.path, attempt)
    memory.look()
    assert memory.peak == peak_of(run) == 0
    attempt.metrics.unlink()
    memory.look()
    attempt.metrics.write_text(row)
    memory.look()
    assert peak_of(run) == memory.peak > 0


def test_a_look_that_comes_too_soon_and_a_disk_that_is_full_change_nothing(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(attempt.path.parents[1])
    memory = MemoryPeak(run.path, attempt, 0)
    memory.look()
    first = memory.peak
    with taking(run.path):
        memory.look()
        assert memory.peak == first > 0
        monkeypatch.setattr(memory, "_next", 0.0)
        monkeypatch.setattr("experiments.store.memory_peak.MEMORY", "not/there.json")
        memory.look()
    assert memory.peak > first
    monkeypatch.undo()
    assert peak_of(run) == first


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"peak_bytes": "much"}', '{"peak_bytes": -1}', "\x00"])
def test_a_foreign_file_is_no_measurement(attempt: Attempt, text: str) -> None:
    run = RunDir(attempt.path.parents[1])
    assert peak_of(run) == 0
    (attempt.path / MEMORY).write_text(text)
    assert peak_of(run) == 0
    other = run.path / "attempts" / "2"
    other.mkdir()
    note_peak(Attempt(2, other), 7)
    assert peak_of(run) == 7
