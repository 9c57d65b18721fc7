"""The scripts: a run's job.sh, and the array that hands each task to one of them. Both can be submitted by hand."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.frozen import FIRST
from experiments.slurm.resources import Resources
from experiments.slurm.unfinished import JOB_NAME
from experiments.snapshot import ORIGIN, PROJECT_DIR


@dataclass(frozen=True)
class Settings:
    """hydra.launcher's values; conf/hydra/launcher/slurm.yaml says what each is."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: Sequence[str] = ()
    sbatch: Mapping[str, Any] | None = None
    python: str | None = None
    array_parallelism: int | None = None
    warning_seconds: int = 120
    requeue: bool = True

    def flags(self) -> dict[str, str | None]:
        """Return sbatch's long options, those of hydra.launcher.sbatch last; a value of None is a bare flag."""
        flags: dict[str, str | None] = {
            name: getattr(self, name) for name in ("partition", "account", "qos") if getattr(self, name) is not None
        }
        flags["signal"] = f"B:USR1@{self.warning_seconds}"  # B: to our own process alone, which passes it on
        flags["requeue" if self.requeue else "no-requeue"] = None
        flags["open-mode"] = "append"  # a requeued job goes on in its log
        for name, value in (self.sbatch or {}).items():
            if value is True or value is None:
                flags[str(name)] = None
            elif value is not False:
                flags[str(name)] = str(value)
        return flags


def job_script(run: Path, steps: int, wanted: Resources, settings: Settings, code: Path, config: str = FIRST) -> str:
    """Return a run's job.sh; `config`: the file in the run's folder with the frozen config of this submission."""
    flags = {"job-name": f"{JOB_NAME}{run.name.rsplit('-', 1)[-1]}", "output": _file_name(run / "job.log")}
    python = settings.python or sys.executable
    command = [python, "-P", "-m", "experiments.slurm.job", str(run), "--steps", str(steps), "--config", config]
    command += ["--warning-seconds", str(settings.warning_seconds), *([] if settings.requeue else ["--no-requeue"])]
    lines = [
        "#!/bin/bash",
        f"# One run, to step {steps}. By hand: sbatch {shlex.quote(str(run / 'job.sh'))}",
        *_directives({**flags, **wanted.flags(), **settings.flags()}),
        f"export {ORIGIN}={shlex.quote(str(PROJECT_DIR))}",
        f"export PYTHONPATH={shlex.quote(str(code))}  # the code as it was when this was submitted",
        *settings.setup,
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def array_script(folder: Path, tasks: int, wanted: Resources, settings: Settings) -> str:
    """Return the script of an array whose task k executes the job.sh of the run in line k + 1 of folder/runs.txt."""
    throttle = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    flags = {
        "job-name": f"{JOB_NAME}{folder.name}",
        "array": f"0-{tasks - 1}{throttle}",
        "output": _file_name(folder / "%a.log", "%a"),  # a link to the run's job.log
    }
    lines = [
        "#!/bin/bash",
        f"# {tasks} runs. By hand: sbatch {shlex.quote(str(folder / 'array.sh'))}",
        *_directives({**flags, **wanted.flags(), **settings.flags()}),
        f'exec bash "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(folder / "runs.txt"))})/job.sh"',
    ]
    return "\n".join(lines) + "\n"


def flag_problems(settings: Settings) -> list[str]:
    """Return what can't stand in a script."""
    found = []
    for name, value in settings.flags().items():
        if any(character in f"{name}{value}" for character in "\n\r\"'\\#"):
            found.append(
                f"sbatch's --{name} must have neither quotes, backslashes, # nor line ends, but is {value!r}; "
                "put it into your own sbatch script"
            )
    reserved = {"array", "output", "error", "parsable", "wrap", "test-only", "hold", "signal", "open-mode", "job-name"}
    for name in sorted(reserved & set(settings.sbatch or {})):
        found.append(f"hydra.launcher.sbatch must not set {name}, but does; leave it out: the launcher sets it")
    for name, least in (("warning_seconds", 1), ("array_parallelism", 1)):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            found.append(f"hydra.launcher.{name} must be a whole number of at least {least}, but is {value!r}")
    return found


def _directives(flags: Mapping[str, str | None]) -> list[str]:
    return [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in flags.items()]


def _file_name(path: Path, pattern: str = "") -> str:
    """Return a path as sbatch's --output takes it: quoted, a % doubled where it does not begin SLURM's pattern."""
    folder = str(path.parent).replace("%", "%%")
    name = path.name if pattern else path.name.replace("%", "%%")
    return f'"{folder}/{name}"'
