"""The README tells the truth: its commands run, its links lead somewhere, its tables name what is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.rundir import RunDir
from tests.e2e.training import clean_environment

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Return the lines of the page's bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line.split("  #")[0].split(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


COMMANDS = [command for page in PAGES for command in commands(page)]
SWEEP = "python -m experiments.run -m rollout.temperature=0.6,1.0,1.2"
FIGURES = "python -m analysis.plot_ablation"


def execute(command: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a `python ...` command of a page in a folder, with this Python."""
    arguments = [sys.executable, *shlex.split(command)[1:], *more]
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=500, env=clean_environment(), check=False
    )


def test_the_main_command_trains_and_the_second_draws(tmp_path: Path) -> None:
    """The two commands that the project is for, as the README types them, at the size of a smoke test."""
    assert SWEEP in COMMANDS and FIGURES in COMMANDS
    done = execute(SWEEP, tmp_path, "experiment=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished") >= 3
    drawn = execute(FIGURES, tmp_path)
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    figure = tmp_path / drawn.stdout.strip().splitlines()[-1].removeprefix("figure: ")
    assert figure.name == "temperature.png" and figure.read_bytes().startswith(b"\x89PNG")
    assert figure.with_suffix(".svg").is_file()


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "experiments.run " in f"{c} "} - {SWEEP}))
def test_every_run_command_plans_or_shows(command: str, tmp_path: Path) -> None:
    """What trains for minutes is asked for its plan only; what only shows something is run as it stands."""
    done = execute(command, tmp_path, *([] if "show=" in command else ["show=plan"]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert not list(tmp_path.glob("runs/*-*")), "showing must not make a run"


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if "experiments.runs " in c}))
def test_every_command_over_runs_does_what_it_says(command: str, tmp_path: Path) -> None:
    for name, temperature in (("temperature=0.6,seed=1-0123abcd", 0.6), ("temperature=1.2,seed=1-89abcdef", 1.2)):
        run = RunDir(tmp_path / "runs" / name)
        run.create(f"rollout:\n  temperature: {temperature}\ntrainer:\n  total_training_steps: 2\n", {"commit": "abc"})
        run.record("launched", launcher="local", steps=2)
        if temperature == 0.6:
            run.new_attempt().log.write_text("a log\n")
            run.record("started", attempt=1, host="laptop", steps=2)
            run.record("finished", attempt=1, step=2)
    done = execute(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("make ")}))
def test_every_make_target_exists_and_would_do_what_the_page_says(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {"make demo": [SWEEP, FIGURES], "make test": ["ruff check", "mypy", "pytest"]}[command]
    assert all(part.removeprefix("python ") in done.stdout for part in expected)


def test_no_command_is_left_out() -> None:
    known = ("make ", "python -m experiments.", "python -m analysis.", "python -m benchmarks.", "source ")
    assert [command for command in COMMANDS if not command.startswith(known)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_groups_table_lists_every_choice() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    groups = {path for path in (ROOT / "conf").iterdir() if path.is_dir()}
    for folder in sorted(group for group in groups if group.name not in ("hydra", "local")):
        row = re.search(rf"\| `{folder.name}` \|([^|]*)\|", text)
        assert row, folder.name
        assert set(re.findall(r"`([^`]+)`", row[1])) == {file.stem for file in folder.glob("*.yaml")}
