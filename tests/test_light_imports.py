"""Planning, status and figures answer quickly, because they import no trainer. Each is checked in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.project import PROJECT_DIR

HEAVY = (
    *("torch", "ray", "verl", "wandb", "transformers", "vllm", "tensordict", "datasets"),
    *("sympy", "math_verify", "reasoning_gym"),
)


def heavy_after(code: str, *arguments: object) -> tuple[list[str], str]:
    """Run `code` in a new process; return which heavy packages it imported, and what it printed before that."""
    report = f"import json, sys\nprint('\\n' + json.dumps(sorted(set({HEAVY}) & set(sys.modules))))"
    command = [sys.executable, "-c", f"{code}\n{report}", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT_DIR, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed, _, last = done.stdout.rstrip().rpartition("\n")
    return json.loads(last), printed


def test_the_measurement_sees_what_is_heavy() -> None:
    assert heavy_after("import sys, types\nsys.modules['torch'] = types.ModuleType('torch')") == (["torch"], "")


@pytest.mark.parametrize(
    "module",
    [
        "experiments.run",
        "experiments.runs",
        *(f"experiments.trained.{name}" for name in ("answers", "card", "evaluation", "problems", "scoring")),
        "experiments.planning.show",
        "experiments.store.rundir",
        "analysis.plot_ablation",
        "analysis.report",
    ],
)
def test_a_light_module_imports_nothing_heavy(module: str) -> None:
    assert heavy_after(f"import {module}") == ([], "")


def test_planning_imports_nothing_heavy(tmp_path: Path) -> None:
    """The real command composes and checks the config, makes the data, names the runs, and prints the plan."""
    code = "import sys\nfrom experiments.run import main\nassert main() == 0"
    overrides = [
        "experiment=smoke",
        "show=plan",
        f"runs_dir={tmp_path / 'runs'}",
        f"data_dir={tmp_path / 'data'}",
    ]
    heavy, printed = heavy_after(code, *overrides)
    assert heavy == []
    assert "1 run" in printed and "new" in printed
    assert not list((tmp_path / "runs").glob("*-*")), "a plan starts nothing"


@pytest.mark.parametrize("module", ["experiments.config.identity", "experiments.config.sweep_files"])
def test_what_the_analysis_shares_needs_no_hydra(module: str) -> None:
    code = f"import sys, {module}\nassert not {{'hydra', 'omegaconf', 'yaml', 'rich', 'pandas'}} & set(sys.modules)"
    assert heavy_after(code) == ([], "")
