"""`make test` on a machine with only Python, make and git says which tests it leaves out; CI leaves out none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import NEEDS, Need, lacking, message

ROOT = Path(__file__).parents[1]
PROGRAMS = tuple(need for need in NEEDS if need.programs)
# Of these files some tests are left out; of the others in NEEDS, all.
PARTLY = sorted({need.tests.split("::")[0] for need in PROGRAMS if "::" in need.tests})
FILES = (*sorted({need.tests.split("::")[0] for need in PROGRAMS}), "tests/test_needs.py")


def collected(folder: Path, ci: str) -> list[str]:
    """Return what pytest prints when it collects the tests on a machine with no program but Python."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "CI"))}
    options = ("--collect-only", "-qq", "--no-header", "-o", "addopts=--import-mode=importlib")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *FILES],
        cwd=ROOT,
        env={**variables, "PATH": str(folder), **({"CI": ci} if ci else {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return collected(tmp_path_factory.mktemp("bin"), ci="true")


def test_where_ci_is_set_nothing_is_left_out(everything: list[str]) -> None:
    for need in PROGRAMS:
        assert any(line.startswith(need.tests.split("::")[0]) for line in everything), need.tests
    assert not [line for line in everything if line.startswith("left out")]


def test_elsewhere_one_line_says_what_is_left_out_and_how_to_have_it(everything: list[str], tmp_path: Path) -> None:
    *found, line = collected(tmp_path, ci="")
    assert sorted({name.split(":")[0] for name in found}) == [*PARTLY, "tests/test_needs.py"]
    assert line.startswith("left out: ") and "CI runs them" in line
    for need in PROGRAMS:
        assert need.tests.rstrip("_") in line
        assert set(need.packages.split()) <= set(line.split("apt-get install ")[1].split(", then")[0].split())
    for program in ("sbatch", "chromium", "unshare"):
        assert program in line
    before, after = (sum(int(n.split(": ")[1]) for n in names) for names in (everything, found))
    assert before - after > 20


def test_a_module_that_is_not_installed_is_lacking_too() -> None:
    there, missing = Need("tests/a/", (), "", modules=("json",)), Need("tests/b/", (), "", modules=("no_such_module",))
    assert lacking(there) == () and lacking(missing) == ("no_such_module",)
    assert message([missing]) == "left out: tests/b/ (no no_such_module); CI runs them; to run them here: make test"
