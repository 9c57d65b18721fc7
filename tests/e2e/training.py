"""Run the real command with real veRL, and read what it left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from experiments.config.verl import override
from experiments.processes import reaping
from experiments.store.files import read_jsonl
from experiments.store.rundir import RunDir, find_runs
from tests.needs import NEEDS, lacking

COMPILER = re.compile(r"(^|-)(cc|gcc|[cg]\+\+|clang|clang\+\+|cpp|nvcc|ninja|g?make)(-[\d.]+)?$")
OTHERS_SECONDS = 60.0  # how long helpers of a launcher that another test killed may take to end
HOME_VARIABLES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
ANNEALED = ("temperature=linear", "rollout.temperature=1.2", "temperature.steps=3")
# A score function of the user's own: it returns its parts for some responses only.
SCORE = """
import experiments


def compute_score(data_source, solution_str, ground_truth, **others):
    if "<answer>" not in solution_str or "</answer>" not in solution_str:
        return 0.0
    copied = "/.code/" in experiments.__file__
    return {"score": 0.1, "acc": False, "format": 1.0, "note": "read", "version": VERSION, "copied": float(copied)}
"""
VERSIONS = (0.25, 0.75)  # before it is edited, and then
SECRET = "5ec4e7" * 6 + "5ec4"  # shaped like a W&B key


@dataclass
class Command:
    """A finished `python -m experiments.run`."""

    code: int
    output: str
    runs_dir: Path

    @property
    def run(self) -> RunDir:
        """The only run of the runs folder."""
        (run,) = find_runs(self.runs_dir)
        return run


def arguments(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command line of a smoke run in `folder`."""
    paths = [override("runs_dir", str(folder / "runs")), override("data_dir", str(folder.parent / "data"))]
    return [sys.executable, "-m", "experiments.run", "experiment=smoke", *paths, *overrides]


def train(folder: Path, *overrides: str, within: Sequence[str] = (), **environment: str) -> Command:
    """Run the command to its end.

    `within`: the command that executes it, if it is not to be executed as it is. `environment` replaces variables of
    its environment.
    """
    folder.mkdir(exist_ok=True)
    variables = {**clean_environment(), **environment}
    command = [*within, *arguments(folder, overrides)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=variables)
    return Command(done.returncode, done.stdout + done.stderr, folder / "runs")


def under_a_read_only_home(home: Path) -> list[str]:
    """Return a command that executes another one with an empty home that can't be written, and prints that it can't.

    Without mount namespaces there is none: the command is then executed as it is.
    """
    if any(lacking(need) for need in NEEDS if need.tests.startswith("tests/e2e/test_read_only_home.py")):
        return []
    home.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    inside = (
        'mount -t tmpfs none "$1" && mount -o remount,ro "$1" && export HOME="$1" && shift && '
        '! touch "$HOME/x" 2>&1 && exec "$@"'
    )
    unset = [part for name in HOME_VARIABLES for part in ("-u", name)]
    return ["env", *unset, "unshare", "--mount", *user, "sh", "-c", inside, "sh", str(home)]


def start_edited(folder: Path, *overrides: str, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the command with SCORE, which is edited as soon as an attempt has begun; return its process.

    `within`: as in `train`.
    """
    folder.mkdir(exist_ok=True)
    score = folder / "score.py"
    score.write_text(SCORE.replace("VERSION", str(VERSIONS[0])))
    attempts = attempts_in(folder / "runs")
    command = subprocess.Popen(
        [*within, *arguments(folder, [override("reward.custom_reward_function.path", str(score)), *overrides])],
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while attempts_in(folder / "runs") == attempts:
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)
    score.write_text(SCORE.replace("VERSION", str(VERSIONS[1])))
    return command


def attempts_in(runs_dir: Path) -> int:
    """Return how many attempts all runs of a folder have had."""
    return sum(len(run.attempts()) for run in find_runs(runs_dir))


def ended(command: subprocess.Popen[str], folder: Path, code: int = 0) -> Command:
    """Return the started command when it has ended, with this exit code."""
    output, _ = command.communicate(timeout=400)
    assert command.returncode == code, output
    return Command(code, output, folder / "runs")


def clean_environment() -> dict[str, str]:
    """Return the environment without a W&B user's settings, but with a key that must not appear anywhere.

    TORCHINDUCTOR_CACHE_DIR is left out too: torch sets it in a process that asks for its cache folder, as this one did.
    """
    plain = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("WANDB") and key != "TORCHINDUCTOR_CACHE_DIR"
    }
    return {**plain, "WANDB_API_KEY": SECRET}


@contextlib.contextmanager
def taken(ports: Iterable[int]) -> Iterator[None]:
    """Listen on ports inside the `with` block, so that nobody else can."""
    with contextlib.ExitStack() as stack:
        for port in ports:
            listener = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # somebody else listens: then the port is taken, too
                listener.bind(("", port))
                listener.listen()
        yield


def path_without_compilers(folder: Path) -> str:
    """Return a PATH with all programs of the present one but compilers and make, as links in a new folder."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            if not COMPILER.search(program.name) and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def rows(run: RunDir) -> dict[int, dict[str, Any]]:
    """Return every metric of a run by step; a later attempt's row completes an earlier one's."""
    joined: dict[int, dict[str, Any]] = {}
    for attempt in run.attempts():
        for row in read_jsonl(attempt.metrics)[0]:
            joined.setdefault(int(row["step"]), {}).update(row["data"])
    return joined


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a row that the training decides: without times, memory and differences of rounding."""
    volatile = ("timing", "perf/", "probs_diff", "rollout_corr/", "actor/ppo_kl", "actor/pg_loss")
    return {key: float(value) for key, value in row.items() if not any(part in key for part in volatile)}


def cut_short(run: RunDir, step: int) -> None:
    """Turn a finished run into one that was interrupted in its last step, `step` + 1; its checkpoint is of `step`."""
    shutil.rmtree(run.checkpoints / f"global_step_{step + 1}")
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))
    events = [event for event in run.events() if event["event"] != "finished"]
    run.events_file.write_text("".join(f"{json.dumps(event)}\n" for event in events))
    run.record("interrupted", attempt=1, step=step)


def left_behind(run: RunDir, launchers: Collection[int] | None = None) -> list[str]:
    """Return what an ended run left on the machine: processes, temporary folders, shared memory.

    `launchers`: the process ids of the run's launchers; None: all launchers that have ended.
    """
    found = [f"process {process.pid} {process.name()}" for process in reaping.of_run(run.path)]
    found += [str(path) for path in Path("/tmp").glob(f"{reaping.scratch_prefix(run.path)}*")]
    deadline = time.monotonic() + OTHERS_SECONDS
    while (of_launchers := _left_by(launchers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found + of_launchers


def _left_by(launchers: Collection[int] | None) -> list[str]:
    folders = {path: int(path.name.split("-")[2]) for path in Path("/tmp").glob("r1z-*-*-*")}
    if launchers is not None:
        return [str(path) for path, pid in folders.items() if pid in launchers]
    found = [str(path) for path, pid in folders.items() if not psutil.pid_exists(pid)]
    # Ray's object store is a file in /dev/shm that is unlinked as soon as it is mapped, so no such name may be left.
    return found + [str(path) for path in Path("/dev/shm").glob("plasma*")]
