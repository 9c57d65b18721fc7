"""Test experiments/processes/ray_python.py against Ray's setup_worker.py: the same worker with the same variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from experiments.processes import ray_python
from experiments.processes.ray_head import worker_python
from experiments.project import PROJECT_DIR

# Stands in for default_worker.py: prints what it got.
WORKER = """
import json, os, sys
variables = {name: value for name, value in os.environ.items() if name.startswith("TEST_")}
print(json.dumps([sys.argv, variables, os.path.realpath(sys.executable), sys.flags.no_site]))
"""


def setup_worker() -> str:
    ray = find_spec("ray")
    assert ray is not None and ray.origin is not None
    return str(Path(ray.origin).parent / "_private" / "workers" / "setup_worker.py")


def context(**fields: Any) -> str:
    nothing = {"command_prefix": [], "env_vars": {}, "override_worker_entrypoint": None, "java_jars": []}
    return json.dumps({**nothing, "py_executable": sys.executable, **fields})


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Return the path of the script that Ray gets for a Python, in a folder whose name has a space."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    return worker_python(folder)


def said(*command: str) -> Any:
    environment = {**os.environ, "TEST_OLD": "old", "TEST_BOTH": "old"}
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"env_vars": {"TEST_NEW": "a, 'b' \"c\" = ü", "TEST_BOTH": "new"}}, True),
        ({"env_vars": {"TEST_NEW": "x"}, "py_executable": f"{sys.executable} -S -E"}, True),
        ({"env_vars": {"TEST_NEW": "${TEST_OLD}:new"}}, False),
        ({"command_prefix": ["TEST_PREFIX=1"]}, False),
        ({"py_executable": None}, False),
    ],
)
def test_a_worker_starts_as_ray_would_start_it(
    fields: dict[str, Any], known: bool, python: str, tmp_path: Path
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    options = ["--language=PYTHON", f"--serialized-runtime-env-context={context(**fields)}"]
    arguments = [setup_worker(), str(worker), "--node-ip-address=10.0.0.1", "--webui=", *options, "--last=it's"]
    assert (ray_python.worker(arguments) is not None) == known, "whether it is left to Ray's own"
    assert said(python, *arguments) == said(sys.executable, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-c", "pass"],
        ["setup_worker.py", "default_worker.py"],
        ["setup_worker.py", "worker", "--language=JAVA", f"--serialized-runtime-env-context={context()}"],
        ["other.py", "worker", "--language=PYTHON", f"--serialized-runtime-env-context={context()}"],
        ["setup_worker.py", "worker", "--language=PYTHON", f"--serialized-runtime-env-context={context(later=1)}"],
    ],
)
def test_what_is_not_known_is_left_alone(arguments: list[str]) -> None:
    assert ray_python.worker(arguments) is None


def test_anything_else_is_plain_python(python: str) -> None:
    code = "import json, sys; print(json.dumps([sys.argv, sys.executable, sys.flags.no_site, 'site' in sys.modules]))"
    expected = [["-c", "a b", "$HOME"], sys.executable, 0, True]
    assert said(python, "-c", code, "a b", "$HOME") == expected
    failing = subprocess.run([python, "-c", "raise SystemExit(7)"])
    assert failing.returncode == 7


def test_where_nothing_may_be_executed_it_is_the_plain_python(tmp_path: Path) -> None:
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = 'mount -t tmpfs -o noexec none "$1" && exec "$2" -c "$3" "$1"'
    code = (
        "import sys, pathlib, experiments.processes.ray_head as head; "
        "print(head.worker_python(pathlib.Path(sys.argv[1])))"
    )
    command = ["unshare", "--mount", *user, "sh", "-c", inside, "sh", str(tmp_path), sys.executable, code]
    found = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True, check=True).stdout
    assert found.strip() == sys.executable
