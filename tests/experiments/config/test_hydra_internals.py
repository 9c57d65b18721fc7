"""config/hydra_internals.py is the only file with Hydra's private names, and refuses another version of Hydra."""

from __future__ import annotations

import ast
import subprocess
import sys

from experiments.project import PROJECT_DIR

ANOTHER_VERSION = """
import sys
from importlib import metadata
real = metadata.version
metadata.version = lambda name: "1.4.0" if name == "hydra-core" else real(name)
sys.argv = ["run", "experiment=smoke"]
import runpy
runpy.run_module("experiments.run", run_name="__main__")
"""


def test_no_other_file_imports_a_private_name_of_hydra() -> None:
    private = set()
    for top in ("experiments", "analysis", "hydra_plugins", "benchmarks"):
        for file in (PROJECT_DIR / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if any(module.startswith("hydra._internal") for module in modules):
                    private.add(file.relative_to(PROJECT_DIR).as_posix())
    assert private == {"experiments/config/hydra_internals.py"}


def test_another_version_is_refused_in_one_line() -> None:
    done = subprocess.run([sys.executable, "-c", ANOTHER_VERSION], cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hydra-core must be 1.3.8, ") and "but is 1.4.0; do: pip install" in line
