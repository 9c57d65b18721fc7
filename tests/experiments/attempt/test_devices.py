"""A run that asked for GPUs trains on GPUs or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from experiments.attempt.devices import check_gpus
from experiments.errors import UserError
from experiments.planning.plan import freeze
from experiments.store.rundir import find_runs
from tests.e2e.training import arguments, clean_environment
from tests.experiments.conftest import Ask


def test_without_a_build_for_cuda() -> None:
    with pytest.raises(UserError, match=r"torch must see 2 GPUs on this node, but sees 0: torch \S+ was built without"):
        check_gpus(2)


def test_a_driver_that_is_too_old_and_a_gpu_that_is_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old() -> bool:
        warnings.warn("The NVIDIA driver on your system is too old (found version 12040). Please update.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    with pytest.raises(UserError, match=r"built for CUDA 13\.0, .*driver on your system is too old \(found version"):
        check_gpus(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    check_gpus(1)
    with pytest.raises(UserError, match=r"see 2 GPUs on this node, but sees 1: .*CUDA_VISIBLE_DEVICES is 3; compare"):
        check_gpus(2)


def test_nothing_is_trained_on_the_cpu_instead(tmp_path: Path, ask: Ask) -> None:
    """veRL would take the CPU where torch has no CUDA, and finish. The launcher tells it, and so does a SLURM job."""
    command = arguments(tmp_path, ["hardware=cuda", "tracking=none"])
    environment = {**clean_environment(), "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "error: torch must be built for CUDA" in done.stderr and find_runs(tmp_path / "runs") == []

    (planned,) = ask("hardware=a100x1 tracking=none")
    run = freeze(planned).folder
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho '0, GPU-a, 40960'\n")
    smi.chmod(0o755)
    small = {**environment, "PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"}
    for variables, cause in (
        (small, "hardware.memory_gib must be at most 40, the GiB of a GPU of this node (nvidia-smi), but is 79"),
        (environment, "torch must see 1 GPU on this node, but sees 0"),
    ):
        attempt = [sys.executable, "-m", "experiments.attempt", str(run.path)]
        done = subprocess.run(attempt, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=variables)
        assert done.returncode == 1, done.stdout + done.stderr
        failed = run.events()[-1]
        assert failed["event"] == "failed" and failed["cause"].startswith(cause)
        assert "Traceback" not in run.attempts()[-1].log.read_text()
    assert run.last_step() == 0 and sum(event["event"] == "started" for event in run.events()) == 2
