"""docs/own_task.md, followed to the letter: its files are written, its commands typed; a real training and a figure."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store.rundir import find_runs
from tests.e2e.training import clean_environment, left_behind, rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_task.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE))
COMMANDS = [
    line.split(" # ")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project with the files that the page tells its reader to write."""
    project = tmp_path_factory.mktemp("own") / "project"
    for part in ("conf", "sweeps", "experiments", "analysis", "hydra_plugins"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
    for name, text in FILES.items():
        (project / name).write_text(text, encoding="utf-8")
    return project


def typed(command: str, project: Path) -> subprocess.CompletedProcess[str]:
    """Execute a command of the page in the project's folder."""
    return subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=project,
        env={**clean_environment(), "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_page_has_its_two_files_and_four_commands() -> None:
    assert list(FILES) == ["above.py", "conf/task/above.yaml"]
    assert [command.split()[2] for command in COMMANDS] == [
        *["experiments.run"] * 2,
        "analysis.plot_ablation",
        "experiments.run",
    ]


def test_what_the_page_says_works(project: Path) -> None:
    for command in COMMANDS:
        done = typed(command, project)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    assert (project / "figures" / "temperature.png").read_bytes().startswith(b"\x89PNG")
    table = (project / "figures" / "temperature.md").read_text()
    assert "task=above" in table and table.count("2/2") == 2
    runs = find_runs(project / "runs")
    assert len(runs) == 2
    for run in runs:
        assert run.state() == "finished" and left_behind(run) == []
        history = rows(run)
        for metric in ("val-core/above/acc/mean@4", "val-core/above_greedy/acc/mean@1"):
            assert 0 <= history[0][metric] <= 1 and 0 <= history[2][metric] <= 1
        assert history[2]["reward/format/mean"] >= history[2]["reward/acc/mean"]
        (launched,) = [event for event in run.events() if event["event"] == "launched"]
        copy = project / "runs" / ".code" / launched["code"] / "above.py"
        assert copy.read_text() == FILES["above.py"], "an attempt executes the file as it was at the launch"


def test_a_mistake_in_the_score_starts_nothing(project: Path, tmp_path: Path) -> None:
    own = tmp_path / "above.py"
    own.write_text(
        FILES["above.py"].replace("equation.evaluate(answer)", "eval(answer)").replace("not (opened", "(opened")
    )
    done = typed(f"python -m experiments.run task=above task.path={own} runs_dir={tmp_path / 'runs'}", project)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"compute_score of reward.custom_reward_function.path={own} must score any response" in done.stderr
    assert "raises SyntaxError" in done.stderr and "nothing was started" in done.stderr
    assert find_runs(tmp_path / "runs") == []
