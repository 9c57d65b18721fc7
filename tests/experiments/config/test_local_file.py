"""conf/local/default.yaml in a copy of the project: the real command reads it, and refuses a misspelt key in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.project import CONFIG_DIR, PROJECT_DIR
from tests.e2e.training import clean_environment

GOOD = """\
# @package _global_
# mine
defaults:
  - override /temperature: linear
  - override /tracking: none
temperature: {end: 0.5, steps: 7}
trainer: {save_freq: 7}
actor_rollout_ref: {rollout: {engine_kwargs: {vllm: {anything: 1}}}}
hydra: {sweep: {dir: elsewhere}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without conf/local/. Python started in its folder imports this copy."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("experiments", "hydra_plugins"):
        shutil.copytree(PROJECT_DIR / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONFIG_DIR, folder / "conf", ignore=shutil.ignore_patterns("local"))
    (folder / "conf" / "local").mkdir()
    return folder


def run(project: Path, text: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    (project / "conf" / "local" / "default.yaml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", "task.train_size=64", *overrides, "show=config"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
    )


def test_the_user_s_defaults_hold_and_the_command_line_wins(project: Path) -> None:
    done = run(project, GOOD, "temperature.steps=9")
    assert done.returncode == 0, done.stderr
    for line in ("save_freq: 7", "schedule: linear", "steps: 9", "end: 0.5", "anything: 1", "wandb: disabled"):
        assert line in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            GOOD + "rollot: {n: 4}\ncritic: {optim: {rl: 1.0}}\n",
            ["default.yaml: rollot must be a key of the config, ", "default.yaml: critic.optim.rl must be a key of "],
        ),
        (
            "# @package _global_\nhydra: {launcher: {partitoin: x, sbatch: {any: 1}}, job: {chdir: false}}\n",
            ["default.yaml: hydra.launcher.partitoin must be a key of "],
        ),
        ("seed: 3\n", ["default.yaml must be a mapping below a first line # @package _global_, but is not"]),
        ("# @package _global_\nseed: [\n", ["a file of conf/ must be YAML, but is not: "]),
    ],
    ids=["misspelt", "misspelt settings of Hydra", "no package", "no YAML"],
)
def test_a_file_that_would_do_nothing_is_refused(project: Path, text: str, expected: list[str]) -> None:
    done = run(project, text)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(expected) and "Traceback" not in done.stderr, done.stderr
    for error, part in zip(errors, expected, strict=True):
        assert (
            part in error and ("did you mean" in error) == ("key" in part) and str(project / "conf" / "local") in error
        )


CHOOSES = "# @package _global_\ndefaults:\n{more}  - override /hydra/launcher: {name}\n  - _self_\nseed: 4\n"


def plan(project: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run the command without show=: only hydra/launcher=plan keeps it from training."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.run", "task.train_size=64", *overrides],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
        env={**clean_environment(), "PATH": ""},  # no SLURM there
    )


@pytest.mark.parametrize("group", ["local", "experiment", "model"])
def test_a_launcher_that_a_file_chooses_is_taken_wherever_the_file_stands(project: Path, group: str) -> None:
    """Hydra itself passes over the choice, since conf/config.yaml makes one; and then it would train here."""
    file = project / "conf" / group / ("default.yaml" if group == "local" else "mine.yaml")
    more = {"experiment": "  - smoke\n", "model": "  - tiny\n", "local": ""}[group]
    file.write_text(CHOOSES.format(more=more, name="plan"))
    try:
        asked = [] if group == "local" else [f"{group}=mine"]
        planned = plan(project, *asked)
        assert planned.returncode == 0, planned.stderr
        assert "1 run: 1 arm" in planned.stdout and "where the runs are" not in planned.stdout
        typed = plan(project, *asked, "hydra/launcher=slurm")
        assert typed.returncode == 2 and "hydra/launcher=slurm must find SLURM's programs" in typed.stderr
    finally:
        file.unlink()


def test_a_launcher_that_is_none_is_told_with_those_there_are(project: Path) -> None:
    file = project / "conf" / "local" / "default.yaml"
    file.write_text(CHOOSES.format(more="", name="slrum"))
    try:
        refused = plan(project)
        assert refused.returncode == 2
        assert "error: hydra/launcher must be basic, local, plan, slurm, " in refused.stderr
    finally:
        file.unlink()


def test_a_command_has_one_launcher(project: Path) -> None:
    file = project / "conf" / "experiment" / "mine.yaml"
    file.write_text(CHOOSES.format(more="  - smoke\n", name="plan"))
    try:
        refused = plan(project, "experiment=mine,smoke")
        assert refused.returncode == 2
        assert "hydra/launcher must be one for all runs of a command, but the files" in refused.stderr
    finally:
        file.unlink()
