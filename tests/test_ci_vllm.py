""".ci/vllm, tested without vLLM: a shell script takes the place of Python, and so of pip and pytest."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Start = Callable[..., subprocess.Popen[str]]
ROOT = Path(__file__).parents[1]
# It answers `python --version`. With `python -m venv FOLDER` it makes a venv whose pip executes $PIP and whose python
# executes $TESTS, if these are set.
PYTHON = """#!/bin/sh
[ "$1" = --version ] && { echo "Python $VERSION"; exit; }
mkdir -p "$3/bin"
printf '#!/bin/sh\\n%s\\n' "${PIP:-exit 0}" >"$3/bin/pip"
printf '#!/bin/sh\\n%s\\n' "${TESTS:-exit 0}" >"$3/bin/python"
chmod +x "$3"/bin/*
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(*arguments: str, version: str = "1", **environment: str) -> subprocess.Popen[str]:
        variables: Mapping[str, str] = {
            **os.environ,
            "PYTHON": str(tmp_path / "python"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "VERSION": version,
            **environment,
        }
        return subprocess.Popen([ROOT / ".ci" / "vllm", *arguments], env=variables, text=True, start_new_session=True)

    return run


def environments(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache" / "r1-zero-ablations").glob("vllm-cpu-*") if path.is_dir()}


def test_an_environment_is_made_once_and_goes_when_nobody_uses_it(start: Start, tmp_path: Path) -> None:
    pip = f"echo made >>{tmp_path}/log"
    assert start(PIP=pip).wait(60) == start(PIP=pip).wait(60) == 0
    assert (tmp_path / "log").read_text() == "made\n"
    (first,) = environments(tmp_path)
    assert start(version="2", PIP=pip).wait(60) == 0
    (second,) = environments(tmp_path)
    assert first != second


def test_an_environment_whose_tests_run_is_left_alone(start: Start, tmp_path: Path) -> None:
    running = start(TESTS=f"touch {tmp_path}/up; exec sleep 60")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "up").exists():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        (used,) = environments(tmp_path)
        assert start(version="2").wait(60) == 0
        assert used in environments(tmp_path) and len(environments(tmp_path)) == 2
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(60)
    assert start(version="2").wait(60) == 0
    assert used not in environments(tmp_path)


def test_an_installer_that_hangs_is_ended_and_its_half_environment_made_again(start: Start, tmp_path: Path) -> None:
    assert start(PIP="exec sleep 60", INSTALL_SECONDS="1").wait(60) == 124
    assert start(PIP="exit 0").wait(60) == 0


def test_the_tests_verdict_is_the_job_s(start: Start) -> None:
    assert start(TESTS="exit 7").wait(60) == 7
