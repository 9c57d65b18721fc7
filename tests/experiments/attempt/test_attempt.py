"""An attempt before its training: it repairs what a kill left, and says what keeps it from starting."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.attempt import execution
from experiments.attempt.recovery import repair_checkpoints
from experiments.processes import reaping
from experiments.store.rundir import RunDir

POINTER = "latest_checkpointed_iteration.txt"


def checkpoint(run: RunDir, step: int, torn: bool = False, actor: bool = True) -> None:
    """Make a checkpoint's folder as veRL 0.9.1 does: the weights, then data.pt, which a kill may cut off."""
    folder = run.checkpoints / f"global_step_{step}"
    folder.mkdir(parents=True)
    if actor:
        (folder / "actor").mkdir()
    torch.save({"_snapshot": {"step": step, "state": list(range(500))}}, folder / "data.pt")
    if torn:
        content = (folder / "data.pt").read_bytes()
        (folder / "data.pt").write_bytes(content[: len(content) * 2 // 3])


@pytest.mark.parametrize(
    ("pointer", "steps", "torn", "expected"),
    [
        ("20", [10, 20], [], 20),
        ("10", [10, 20], [], 10),  # killed while or after it wrote data.pt: trust only the pointer's step
        ("10", [10, 20], [20], 10),
        ("", [10, 20], [], 20),  # killed while it wrote the pointer: data.pt is whole by then
        ("", [10], [], 10),
        ("", [10, 20], [20], 10),  # a power cut
        (None, [10], [10], 0),  # killed in its first data.pt: no checkpoint is left
        (None, [10], [], 10),
        (None, [], [], 0),
        ("20", [10], [], 10),  # the checkpoint that the pointer names is gone
        ("20", [], [], 0),
    ],
)
def test_what_is_resumed_from_is_whole(
    tmp_path: Path, pointer: str | None, steps: list[int], torn: list[int], expected: int
) -> None:
    run = RunDir(tmp_path / "a-00000001")
    run.checkpoints.mkdir(parents=True)
    for step in steps:
        checkpoint(run, step, torn=step in torn)
    if pointer is not None:
        (run.checkpoints / POINTER).write_text(pointer)
    if not (torn and pointer == ""):
        assert run.checkpoint_step() == expected, "the plan says so beforehand"
    repair_checkpoints(run)
    assert run.checkpoint_step() == expected
    assert (run.checkpoints / POINTER).exists() == bool(expected)
    left = {int(folder.name.removeprefix("global_step_")) for folder in run.checkpoints.glob("global_step_*")}
    assert left == {step for step in steps if step <= expected}, "veRL would number on from a torn one"
    if expected:
        assert torch.load(run.checkpoints / f"global_step_{expected}" / "data.pt")["_snapshot"]["step"] == expected


def test_a_checkpoint_without_weights_is_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "a-00000001")
    checkpoint(run, 10)
    checkpoint(run, 20, actor=False)
    repair_checkpoints(run)
    assert run.checkpoint_step() == 10 and not (run.checkpoints / "global_step_20").exists()


@pytest.fixture
def run(tmp_path: Path, resolved: Callable[..., dict[str, Any]]) -> RunDir:
    run = RunDir(tmp_path / "a-00000001")
    config = resolved("experiment=smoke")
    run.create(json.dumps(config), {}, config)
    return run


def test_a_place_that_takes_no_temporary_folder_is_a_failure_with_its_cause(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(reaping, "SCRATCH", tmp_path / "file")
    monkeypatch.setattr(reaping.scratch_folder, "__defaults__", (tmp_path / "file",))
    assert execution.execute(run) == 1
    failed = run.events()[-1]
    assert run.state() == "failed"
    assert failed["cause"].startswith(f"{tmp_path / 'file'} must take temporary folders")
    assert failed["remedy"] == "make it a folder with room that you may write to"


def test_what_can_t_be_written_is_a_failure_with_its_cause_and_leaves_nothing_in_tmp(run: RunDir) -> None:
    """Starts a real process, and checks that it prints the failure and no traceback."""
    (run.path / "attempts").write_text("in the way")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.attempt", str(run.path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    failed = run.events()[-1]
    assert (failed["event"], failed["kind"]) == ("failed", "error")
    assert failed["cause"] == f"{run.path} must be a run's folder, but its attempts is a file"
    assert not list(reaping.SCRATCH.glob(f"{reaping.scratch_prefix(run.path)}*"))


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.attempt", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path} must be a run's folder")
    assert "Traceback" not in done.stderr
