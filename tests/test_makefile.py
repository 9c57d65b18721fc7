"""`make` on a machine without what it needs says what to install."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# It prints its version, and exits with 1 when it is asked whether it is new enough.
OTHER_PYTHON = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "Python 3.9.18"; exit 0; fi
exit 1
"""


@pytest.mark.parametrize(("python", "found"), [("other", "Python 3.9.18"), ("", ""), ("missing", "")])
def test_a_wrong_or_missing_python_is_told_before_anything_is_made(python: str, found: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text(OTHER_PYTHON)
    other.chmod(0o755)
    venv = tmp_path / "venv"
    done = subprocess.run(
        ["make", "install", f"PYTHON={tmp_path / python if python else ''}", f"VENV={venv}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    message = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.startswith("error: ")]
    assert len(message) == 1, done.stdout + done.stderr
    assert "Python must be 3.11 or 3.12" in message[0] and found in message[0] and "make PYTHON=" in message[0]
    assert not venv.exists()
