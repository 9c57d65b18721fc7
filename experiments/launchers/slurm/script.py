"""Write the scripts for sbatch: a run's job.sh, and an array whose tasks each execute one job.sh.

Both can be submitted by hand.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.launchers.retries import retries_problem
from experiments.launchers.slurm.arms_per_job import value_problems
from experiments.launchers.slurm.resources import Resources
from experiments.launchers.slurm.run_job import JOB_NAME
from experiments.store.code_copy import PROJECT_DIR
from experiments.store.frozen import FIRST
from experiments.store.rundir import id_of
from experiments.terminal import counted
from experiments.variables import ORIGIN

# Options of sbatch that hydra.launcher.sbatch must not set. OURS: the launcher sets them itself, or would not
# understand sbatch's answer. SETTINGS: hydra.launcher has a setting for them, which is checked.
OURS = {
    *("array", "output", "error", "parsable", "wrap", "test-only", "hold", "signal", "open-mode", "job-name"),
    *("wait", "clusters"),
}
SETTINGS = {
    name.replace("_", "-"): name
    for name in ("partition", "account", "qos", "nodes", "gpus_per_node", "gres", "cpus_per_task", "mem", "time")
}


@dataclass(frozen=True)
class Settings:
    """hydra.launcher's values; conf/hydra/launcher/slurm.yaml says what each value means."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: Sequence[str] = ()
    sbatch: Mapping[str, Any] | None = None
    python: str | None = None
    array_parallelism: int | None = None
    arms_per_job: int = 1
    requeue: bool = True
    retries: int = 2

    def flags(self) -> dict[str, str | None]:
        """Return sbatch's long options, those of hydra.launcher.sbatch last. An option with None takes no value."""
        flags: dict[str, str | None] = {
            name: getattr(self, name) for name in ("partition", "account", "qos") if getattr(self, name) is not None
        }
        flags["requeue" if self.requeue else "no-requeue"] = None
        flags["open-mode"] = "append"  # a requeued job appends to its log
        for name, value in (self.sbatch or {}).items():
            if value is True or value is None:
                flags[str(name)] = None
            elif value is not False:
                flags[str(name)] = str(value)
        return flags


def job_script(run: Path, steps: int, wanted: Resources, settings: Settings, code: Path, config: str = FIRST) -> str:
    """Return a run's job.sh; `config`: the file in the run's folder with the frozen config of this submission."""
    flags = {"job-name": f"{JOB_NAME}{id_of(run.name)}", "output": _file_name(run / "job.log")}
    lines = [
        "#!/bin/bash",
        f"# One run, to step {steps}. By hand: sbatch {shlex.quote(str(run / 'job.sh'))}",
        *_directives({**flags, **wanted.flags(), **settings.flags()}),
        *_execution(settings, code, ["in_job", str(run), "--steps", str(steps), "--config", config], wanted),
    ]
    return "\n".join(lines) + "\n"


def array_script(folder: Path, tasks: int | None, wanted: Resources, settings: Settings) -> str:
    """Return the script of an array whose task k executes the job.sh of the run in line k + 1 of folder/runs.txt.

    `tasks`: how many; None: a plain job for the first run, since the cluster allows no arrays.
    """
    lines = [
        "#!/bin/bash",
        f"# {tasks or 1} runs. By hand: sbatch {shlex.quote(str(folder / 'array.sh'))}",
        *_directives({**_array_flags(folder, tasks, settings), **wanted.flags(), **settings.flags()}),
        f'exec bash "$(sed -n "$((${{SLURM_ARRAY_TASK_ID:-0}} + 1))p" {shlex.quote(str(folder / "runs.txt"))})/job.sh"',
    ]
    return "\n".join(lines) + "\n"


def groups_script(folder: Path, tasks: int | None, wanted: Resources, settings: Settings, code: Path) -> str:
    """Return the script of an array whose task k trains the k-th group of runs of the folder side by side (groups.py).

    `tasks`: as in `array_script`.
    """
    lines = [
        "#!/bin/bash",
        f"# {counted(tasks or 1, 'job')}, each with several runs side by side. One run by hand: sbatch its job.sh",
        *_directives({**_array_flags(folder, tasks, settings), **wanted.flags(), **settings.flags()}),
        *_execution(settings, code, ["side_by_side", str(folder)], wanted),
    ]
    return "\n".join(lines) + "\n"


def _array_flags(folder: Path, tasks: int | None, settings: Settings) -> dict[str, str]:
    """Return the options that make a job an array, or a plain job if `tasks` is None."""
    throttle = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    return {
        "job-name": f"{JOB_NAME}{folder.name}",
        **({} if tasks is None else {"array": f"0-{tasks - 1}{throttle}"}),
        "output": _file_name(folder / ("0.log" if tasks is None else "%a.log"), "%a"),  # of one run: a link to job.log
    }


def _execution(settings: Settings, code: Path, command: Sequence[str], wanted: Resources) -> list[str]:
    """Return the lines that execute a module of this package with its arguments, from the copy of the code."""
    python = [settings.python or sys.executable, "-P", "-m", f"experiments.launchers.slurm.{command[0]}", *command[1:]]
    python += ["--warning-seconds", str(wanted.warning_seconds or 120)]
    python += [] if settings.requeue else ["--no-requeue"]
    python += ["--retries", str(settings.retries)]
    return [
        f"export {ORIGIN}={shlex.quote(str(PROJECT_DIR))}",
        f"export PYTHONPATH={shlex.quote(str(code))}  # the code as it was when this was submitted",
        *(settings.setup or ()),
        f"exec {shlex.join(python)}",
    ]


def flag_problems(settings: Settings) -> list[str]:
    """Return a problem for each setting that can't be written into a script."""
    found = []
    if not isinstance(settings.sbatch, Mapping | None):
        return [
            f"hydra.launcher.sbatch must be a mapping of sbatch's options, but is {settings.sbatch!r}; "
            "try '{constraint: a100}'"
        ]
    for name, value in settings.flags().items():
        if any(character.isspace() or character in "\"'\\#" for character in f"{name}{value}"):
            found.append(
                f"sbatch's --{name} must have neither spaces, quotes, backslashes nor #, but is {value!r}; "
                "put it into your own sbatch script"
            )
    for name in sorted(OURS & set(settings.sbatch or {})):
        found.append(f"hydra.launcher.sbatch must not set {name}, but does; leave it out: the launcher sets it")
    for name in sorted(set(SETTINGS) & set(settings.sbatch or {})):
        found.append(
            f"hydra.launcher.sbatch must not set {name}, but does; set hydra.launcher.{SETTINGS[name]} instead"
        )
    lines: Any = settings.setup or ()
    if isinstance(lines, str) or not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
        found.append(
            f"hydra.launcher.setup must be a list of lines of shell, but is {settings.setup!r}; put it into []"
        )
    if not isinstance(settings.requeue, bool):
        found.append(f"hydra.launcher.requeue must be true or false, but is {settings.requeue!r}; choose one")
    if problem := retries_problem(settings.retries):
        found.append(problem)
    found += value_problems(settings.arms_per_job)
    most: Any = settings.array_parallelism
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        found.append(f"hydra.launcher.array_parallelism must be a whole number of at least 1, but is {most!r}")
    return found


def _directives(flags: Mapping[str, str | None]) -> list[str]:
    return [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in flags.items()]


def _file_name(path: Path, pattern: str = "") -> str:
    """Return a path in the form that sbatch's --output needs: quoted, and with each % doubled.

    With a SLURM `pattern` ("%a") in the file's name, the name stays as it is.
    """
    folder = str(path.parent).replace("%", "%%")
    name = path.name if pattern else path.name.replace("%", "%%")
    return f'"{folder}/{name}"'
