"""What each shortcut in the code wins: the same command with it and without it, alternating, in one run.

    python -m benchmarks.shortcuts [NAME ...] [--rounds 3]

A shortcut is code that exists for speed alone. It stays only while it wins a tenth of a step, of a start, or of what a
user waits for a plan. The benchmark copies the project twice, takes the shortcut out of one copy by replacing a text in
one of its files, and runs both copies in turn. Medians over the rounds; above 1 means that the shortcut wins.

step, start, later arm    seconds, by `python -m benchmarks.step --only ours` (its docstring says what they are)
plan of 4 or 32 arms      CPU seconds of `python -m experiments.run ... show=plan`
32 frozen configs         CPU seconds of planning 32 arms and writing their folders
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.project import PROJECT_DIR

Figures = dict[str, float]


@dataclass(frozen=True)
class Shortcut:
    """A shortcut, and how to take it out: `text`, which stands once in `file`, becomes `without`."""

    file: str
    text: str
    without: str
    measures: tuple[str, ...]


TRAINING, PLANNING = ("training",), ("plan of 4 arms", "plan of 32 arms")
SHORTCUTS = {
    "kept_forward": Shortcut(
        "experiments/verl_plugin/training/kept_forward.py",
        "    model = config.actor_rollout_ref\n    actor, rollout",
        "    return False\n    model = config.actor_rollout_ref\n    actor, rollout",
        TRAINING,
    ),
    "ray_python": Shortcut(
        "experiments/processes/ray_head.py", "        sys.executable = worker_python(folder)", "        pass", TRAINING
    ),
    "sweep_compose": Shortcut(
        "experiments/config/sweep_compose.py", "        if not self.simple:\n", "        if True:\n", PLANNING
    ),
    "verl_config_source": Shortcut(
        "hydra_plugins/ablations.py", "@cache  # each file once in a process\n", "", PLANNING
    ),
    "collector": Shortcut("experiments/run.py", "    gc.disable()  #", "    pass  #", PLANNING),
    "config_yaml": Shortcut(
        "experiments/store/config_yaml.py",
        '        return "".join(_entry(key, value) for key, value in config.items())\n',
        "        return _dump(config)\n",
        ("32 frozen configs",),
    ),
}
FREEZE = """
import sys
from hydra import initialize_config_dir
from experiments.config.compose import register_resolvers
from experiments.config.sweep_compose import Composer
from experiments.planning.plan import freeze, plan_runs
from experiments.project import CONFIG_DIR
register_resolvers()
with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
    composer = Composer.of_running_hydra()
    arms = [[f"seed={seed}", f"rollout.temperature={t}"] for seed in range(1, 9) for t in (0.6, 0.8, 1.0, 1.2)]
    for run in plan_runs([composer.compose([*arm, *sys.argv[1:]]) for arm in arms]):
        freeze(run)
"""


def copy_without(shortcut: Shortcut | None, folder: Path) -> Path:
    """Return a copy of the project's code in a folder, without the shortcut; ValueError if its text is not there."""
    for part in ("experiments", "analysis", "benchmarks", "hydra_plugins", "conf", "sweeps"):
        shutil.copytree(PROJECT_DIR / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "local"))
    if shortcut is not None:
        file = folder / shortcut.file
        source = file.read_text(encoding="utf-8")
        if source.count(shortcut.text) != 1:
            raise ValueError(f"{shortcut.file} must have the text {shortcut.text!r} once, but does not")
        file.write_text(source.replace(shortcut.text, shortcut.without), encoding="utf-8")
    return folder


def training(project: Path) -> Figures:
    """Return the seconds of a step, of the start and of a later arm's start."""
    out = project / "out.json"
    python(project, "-m", "benchmarks.step", "--only", "ours", "--out", str(out))
    result = json.loads(out.read_text())["results"]["ours"]
    names = {"step_seconds": "step", "first_step_seconds": "start", "later_arm_seconds": "later arm"}
    return {label: result[name] for name, label in names.items()}


def planning(project: Path, arms: int) -> Figures:
    """Return the CPU seconds of planning so many arms of four temperatures."""
    overrides = ["rollout.temperature=0.6,0.8,1.0,1.2", f"seed=range(1,{arms // 4 + 1})", "show=plan"]
    command = ("-m", "experiments.run", "-m", *overrides, *places(project))
    return {f"plan of {arms} arms": python(project, *command)}


def freezing(project: Path) -> Figures:
    """Return the CPU seconds of planning 32 arms and writing their folders."""
    shutil.rmtree(project / "runs", ignore_errors=True)
    return {"32 frozen configs": python(project, "-c", FREEZE, *places(project))}


MEASURES: Mapping[str, Callable[[Path], Figures]] = {
    "training": training,
    "plan of 4 arms": lambda project: planning(project, 4),
    "plan of 32 arms": lambda project: planning(project, 32),
    "32 frozen configs": freezing,
}


def places(project: Path) -> list[str]:
    """Return the overrides that keep a copy's runs and data inside the copy."""
    return [f"runs_dir={project / 'runs'}", f"data_dir={project / 'data'}"]


def python(project: Path, *arguments: str) -> float:
    """Run Python on a copy of the project; return the CPU seconds that it took, its children's included."""
    before = os.times()
    variables = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def compare(shortcut: Shortcut, rounds: int) -> dict[str, tuple[float, float]]:
    """Return by figure its median (with the shortcut, without it)."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="shortcuts-") as folder:
        copies = [copy_without(one, Path(folder) / name) for one, name in ((None, "with"), (shortcut, "without"))]
        for measure in shortcut.measures:
            for copy in copies if measure != "training" else ():  # the data set is made once, before anything counts
                MEASURES[measure](copy)
            for _ in range(rounds):
                for which, copy in enumerate(copies):
                    for figure, value in MEASURES[measure](copy).items():
                        found.setdefault(figure, ([], []))[which].append(value)
    return {figure: (statistics.median(one), statistics.median(other)) for figure, (one, other) in found.items()}


def main() -> int:
    """Print the table; return 0."""
    parser = argparse.ArgumentParser(description="What each shortcut wins, with it and without it in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SHORTCUTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (default: 3)")
    parsed = parser.parse_args()
    if unknown := set(parsed.names) - set(SHORTCUTS):
        parser.error(f"NAME must be some of {', '.join(SHORTCUTS)}, but is {', '.join(sorted(unknown))}")
    table = Table("shortcut", "figure", "with", "without", "wins")
    for name in parsed.names or SHORTCUTS:
        for figure, (one, other) in compare(SHORTCUTS[name], parsed.rounds).items():
            table.add_row(name, figure, f"{one:.2f} s", f"{other:.2f} s", f"{other / one:.2f} x")
    Console(highlight=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
