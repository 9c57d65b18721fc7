""".ci/gpu-stack: what it says about the answer of a resolver. A real resolver needs a package index: CI runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STACK = "verl==0.9.1 vllm==0.24.0 torch==2.11.0 transformers==5.9.0 ray==2.60.0 tensordict==0.10.0 numpy==2.3.5"


def check(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run the check with a shell script in place of the resolver."""
    resolver = folder / "uv"
    resolver.write_text(f"#!/bin/sh\n{script}\n")
    resolver.chmod(0o755)
    return subprocess.run(
        [ROOT / ".ci" / "gpu-stack"],
        env={**os.environ, "UV": str(resolver)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_stack_passes_on_both_pythons(tmp_path: Path) -> None:
    done = check(tmp_path, f'echo "$@" >>{tmp_path}/asked; printf "%s\\n" {STACK}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Python 3.11: .[gpu] is veRL's vLLM stack, 7 packages",
        "Python 3.12: .[gpu] is veRL's vLLM stack, 7 packages",
    ]
    for asked, python in zip((tmp_path / "asked").read_text().splitlines(), ("3.11", "3.12"), strict=True):
        words = asked.split()
        assert words[:2] == ["pip", "compile"], "compile installs nothing"
        assert words[words.index("--extra") :] == ["--extra", "gpu", "pyproject.toml"]
        assert words[words.index("--python-version") + 1] == python
        assert words[words.index("--only-binary") + 1] == ":all:"


@pytest.mark.parametrize(
    "answer, says",
    [
        (
            STACK.replace("torch==2.11.0", "torch==2.12.0"),
            "torch==2.11.0 on Python 3.11, but resolves to torch==2.12.0",
        ),
        (STACK.replace("vllm==0.24.0", ""), "vllm==0.24.0 on Python 3.11, but resolves to none"),
    ],
)
def test_another_stack_fails_and_is_named(tmp_path: Path, answer: str, says: str) -> None:
    done = check(tmp_path, f'printf "%s\\n" {answer}')
    assert done.returncode == 1
    assert says in done.stdout


def test_no_answer_fails_with_the_resolver_s_words(tmp_path: Path) -> None:
    done = check(tmp_path, "echo 'no solution found' >&2; exit 1")
    assert done.returncode != 0
    assert "no solution found" in done.stderr
