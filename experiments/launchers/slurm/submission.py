"""Submit runs: write folders and scripts, submit one held array for each set of resources, then release all at once.

Nothing starts before SLURM has accepted every array and every run has its job's id on the disk. If anything goes wrong
on the way, an interrupt included, the submitted arrays are cancelled.
"""

from __future__ import annotations

import contextlib
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from experiments.errors import UserError
from experiments.launchers.slurm import commands, queue
from experiments.launchers.slurm.arms_per_job import in_arrays
from experiments.launchers.slurm.commands import SlurmError, answer_is_lost, call
from experiments.launchers.slurm.groups import Arm, log_marks, write_groups
from experiments.launchers.slurm.half_submitted import begin, cancel_runs, complete
from experiments.launchers.slurm.nodes import waited_for
from experiments.launchers.slurm.resources import Resources
from experiments.launchers.slurm.run_job import ARRAYS, JOB_NAME, cluster_name
from experiments.launchers.slurm.script import Settings, array_script, groups_script, job_script
from experiments.planning.content import code_version
from experiments.planning.plan import PlannedRun, launched
from experiments.store.code_copy import snapshot
from experiments.store.events import Event
from experiments.store.files import write_atomically

UNAVAILABLE = "Requested node configuration is not available"
SBATCH_SECONDS = 60.0  # sbatch itself would try again for two minutes, without a word, where the queue is full
WRITERS = 16  # how many runs' files are written at the same time


Group = Sequence[PlannedRun]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Array:
    """A submitted job array; task k trains the runs of tasks[k], side by side if there are several."""

    job: str
    resources: Resources
    tasks: Sequence[Group]
    folder: Path
    is_array: bool
    """False for a plain job, on a cluster that allows no arrays."""
    waits_for: str | None = None
    """Which nodes must come back before a task can start; None: tasks may start at once, or when others have ended."""

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs of all tasks."""
        return [run for group in self.tasks for run in group]

    @property
    def name(self) -> str:
        """The job's name in SLURM."""
        return f"{JOB_NAME}{self.folder.name}"


def submit(wanted: Sequence[tuple[PlannedRun, Resources]], settings: Settings, runs_dir: Path) -> list[Array]:
    """Submit frozen runs; return the arrays. UserError with sbatch's own words if sbatch refuses one of them."""
    code = snapshot(runs_dir, [run.config for run, _ in wanted], code_version())

    def write_script(item: tuple[PlannedRun, Resources]) -> None:
        run, needs = item
        script = job_script(run.folder.path, run.steps, needs, settings, code, run.frozen)
        write_atomically(run.folder.path / "job.sh", script)

    def record(submitted: tuple[Array, int, PlannedRun]) -> None:
        array, task, run = submitted
        job = {
            "job": f"{array.job}_{task}" if array.is_array else array.job,
            "cluster": cluster_name(),
            "job_name": array.name,
        }
        run.folder.record(Event.SUBMITTED, **job, **log_marks(run.folder, None), **launched("slurm", run, code))

    each(write_script, wanted)
    arrays: list[Array] = []
    with _interrupts_deferred() as interrupts:
        try:
            most = max_array_size()
            for needs, groups in in_arrays(wanted, settings.arms_per_job).items():
                for start in range(0, len(groups), max(1, most)):
                    some = groups[start : start + max(1, most)]
                    arrays.append(_hold(some, needs, settings, runs_dir, code, len(arrays), is_array=most > 0))
                    _check(interrupts)
            tasks = [(array, task, group) for array in arrays for task, group in enumerate(array.tasks)]
            each(record, [(array, task, run) for array, task, group in tasks for run in group])
            _check(interrupts)
            _release(arrays)
            for array in arrays:
                complete(array.folder)
        except BaseException as error:
            with contextlib.suppress(SlurmError):  # if SLURM does not answer, the next look at the runs takes them back
                queue.cancel([array.job for array in arrays])
                for array in arrays:
                    cancel_runs(array.folder)
                    complete(array.folder)
            if isinstance(error, SlurmError):
                raise UserError(refusal(str(error), settings)) from None
            raise
    return arrays


def each(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the result of `do` for every item, WRITERS at a time. Raises the first error, once all have ended.

    Writing a run's files mostly waits for the disk, and a file system can serve many such waits at once.
    """
    with ThreadPoolExecutor(WRITERS) as pool:
        return [done.result() for done in [pool.submit(do, item) for item in items]]


def refusal(message: str, settings: Settings) -> str:
    """Return sbatch's message as a problem, with what the user can do about it."""
    words = "; ".join(
        line.removeprefix("sbatch: error: ").removeprefix("allocation failure: ") for line in message.splitlines()
    )
    remedies = (  # the first that fits; "Invalid account or account/partition combination" is about the account
        (
            "accounting/qos policy",
            "your account or QOS allows less than these jobs ask for, or fewer jobs: sacctmgr show qos and sacctmgr "
            "show associations user=$USER say what; ask for less (hydra.launcher.time, mem), or submit fewer runs",
        ),
        ("account", f"hydra.launcher.account is {settings.account}; sacctmgr show associations user=$USER shows yours"),
        ("partition", f"hydra.launcher.partition is {settings.partition}; sinfo shows those that exist"),
        ("qos", f"hydra.launcher.qos is {settings.qos}; sacctmgr show qos shows those that exist"),
        (
            UNAVAILABLE.lower(),
            "no node has that many GPUs, CPUs or that memory: sinfo -N -l shows what they have; choose another "
            "hardware, or set hydra.launcher.cpus_per_task and mem",
        ),
        (
            "sleeping and retrying",
            "the cluster's queue is full (MaxJobCount in scontrol show config): submit fewer runs, or later",
        ),
        ("array", "the cluster's limits for arrays stand in scontrol show config (MaxArraySize, max_array_tasks)"),
        ("time limit", "lower hydra.launcher.time; sinfo shows each partition's limit"),
    )
    do = next((remedy for word, remedy in remedies if word in words.lower()), "change hydra.launcher.*")
    return f"SLURM must accept the jobs, but says: {words}; {do}"


def max_array_size() -> int:
    """Return the most tasks that an array may have on this cluster, 0 without arrays; 1000 if SLURM does not say."""
    said = call("scontrol", "show", "config")
    limits = (r"^MaxArraySize\s*=\s*(\d+)", r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)")
    found = [int(match[1]) for limit in limits if (match := re.search(limit, said, re.MULTILINE))]
    return min(found) if found else 1000


def _write_array(
    folder: Path, tasks: Sequence[Group], count: int | None, needs: Resources, settings: Settings, code: Path
) -> None:
    """Write the script of an array into its folder, and what the script reads there. `count`: as script.py has it."""
    runs = [run for group in tasks for run in group]
    write_atomically(folder / "runs.txt", "".join(f"{run.folder.path}\n" for run in runs))
    if len(runs) > len(tasks):
        write_groups(folder, [[Arm(run.folder, run.steps, run.frozen) for run in group] for group in tasks])
        script = groups_script(folder, count, needs, settings, code)
    else:
        for task, run in enumerate(runs):
            (folder / f"{task}.log").symlink_to(run.folder.path / "job.log")
        script = array_script(folder, count, needs, settings)
    write_atomically(folder / "array.sh", script)


def _hold(
    tasks: Sequence[Group],
    needs: Resources,
    settings: Settings,
    runs_dir: Path,
    code: Path,
    number: int,
    is_array: bool,
) -> Array:
    """Submit one array that waits until it is released. `number`: which array of this submission it is."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{number}-"
    folder = Path(tempfile.mkdtemp(prefix=stamp, dir=runs_dir / ARRAYS))
    folder.chmod(0o755)
    _write_array(folder, tasks, len(tasks) if is_array else None, needs, settings, code)
    waits = None
    try:  # `sbatch --hold` accepts a job that no node could run; `--test-only` tells us now
        call("sbatch", "--test-only", folder / "array.sh", seconds=120.0)
    except SlurmError as error:
        if UNAVAILABLE in str(error):  # the submission itself reports any other problem
            waits = waited_for(needs, settings.partition)
            if waits is None:
                raise
    begin(folder)
    try:
        said = call("sbatch", "--parsable", "--hold", folder / "array.sh", seconds=SBATCH_SECONDS)
        job = said.strip().split(";")[0]
    except SlurmError as error:
        job = _accepted(folder, error)
    return Array(job, needs, tasks, folder, is_array, waits)


def _accepted(folder: Path, error: SlurmError) -> str:
    """Return the id of the array of this folder if SLURM has it, though sbatch ended with an error; else raise it.

    Only SLURM's answer can get lost on the way: then its words are about the network, and the array may come yet. Its
    note stays, so that a later look takes the array back.
    """
    name = f"{JOB_NAME}{folder.name}"
    is_lost = answer_is_lost(error)
    deadline = time.monotonic() + (commands.LATE_SECONDS if is_lost else 0.0)
    try:
        while not (found := queue.named([name]).get(name)) and time.monotonic() < deadline:
            time.sleep(0.5)
    except SlurmError:
        raise error from None
    if found:
        return found[0].id.split("_")[0]
    if not is_lost:
        complete(folder)
    raise error


def _release(arrays: Sequence[Array]) -> None:
    """Release the arrays. SlurmError if one of them is still held then: SLURM may do it and its answer get lost."""
    try:
        call("scontrol", "release", ",".join(array.job for array in arrays))
    except SlurmError:
        known = queue.named([array.name for array in arrays])
        if any(not (tasks := known.get(array.name)) or any(task.held for task in tasks) for array in arrays):
            raise


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[list[int]]:
    """Note Ctrl-C, SIGTERM and a lost terminal in the list that is yielded: no call to SLURM is cut short."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, frame: caught.append(got)) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(interrupts: Sequence[int]) -> None:
    """Raise KeyboardInterrupt if a signal has arrived."""
    if interrupts:
        raise KeyboardInterrupt
