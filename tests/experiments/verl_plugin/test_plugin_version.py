"""Test experiments/verl_plugin/__init__.py: it refuses any veRL but the version it was tested with."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from experiments.project import PROJECT_DIR


def import_plugin(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import the plugin in a process that finds packages in `folder` first."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(PROJECT_DIR)])}
    command = [sys.executable, "-c", "import experiments.verl_plugin"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def test_another_version_of_verl_is_refused_before_verl_is_imported(tmp_path: Path) -> None:
    information = tmp_path / "verl-0.8.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.8.2\n")
    (tmp_path / "verl.py").write_text("raise RuntimeError('veRL was imported')\n")
    done = import_plugin(tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == (
        "ImportError: verl must be 0.9.1 for experiments.verl_plugin, but is 0.8.2; do: pip install verl==0.9.1"
    )


def test_the_installed_version_is_the_tested_one() -> None:
    from experiments.verl_plugin import VERL_VERSION

    assert version("verl") == VERL_VERSION
    pins = (PROJECT_DIR / "pyproject.toml").read_text()
    assert f'"verl=={VERL_VERSION}"' in pins and f'"verl[vllm]=={VERL_VERSION}"' in pins
