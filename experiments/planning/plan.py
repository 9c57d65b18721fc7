"""Plan a launch: turn the requested configs into runs, and compare them with what is already in the runs folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.checks.preflight import Faulty, Findings, Sound, examine, faults_of
from experiments.config import identity, names
from experiments.config.sweep_compose import Composed
from experiments.config.unread import unknown_addition, unread, unread_problem
from experiments.config.verl import numbers_as_verl_has_them, override
from experiments.errors import UserError
from experiments.models import hub as hub_model
from experiments.models.memory import Setup
from experiments.planning.content import code_version, content_of
from experiments.store.config_yaml import as_yaml
from experiments.store.events import State
from experiments.store.frozen import FIRST, freeze_launch
from experiments.store.rundir import RunDir, entries

NAMED = 3  # how many cells a problem names
WANDB_TAG = 64  # the most characters that W&B accepts in a tag


@dataclass(frozen=True)
class PlannedRun:
    """One run that was asked for."""

    name: str
    folder: RunDir
    config: dict[str, Any]
    verl: DictConfig
    steps: int
    state: State
    reached: int
    frozen: str = FIRST
    """The file in the run's folder that holds this config, once it is frozen."""
    memory: Setup | None = None
    """What the run asks of a GPU's memory; None if that is not known, and on a CPU."""

    @property
    def action(self) -> str:
        """Return "start", "resume", "extend", "skip" (done) or "wait" (running or queued)."""
        if self.state in (State.RUNNING, State.QUEUED):
            return "wait"
        if self.state == State.PLANNED and not self.folder.events_file.exists():
            return "start"
        if self.folder.finished_step() >= self.steps:  # even if an extension beyond these steps failed
            return "skip"
        if not self.folder.checkpoint_step():
            return "start"
        return "extend" if self.state == State.FINISHED else "resume"

    @property
    def begins(self) -> int:
        """Return the step after which the next attempt begins: of the newest checkpoint, which may be deleted."""
        if step := self.folder.checkpoint_step():
            return step
        outside = self.config["trainer"].get("resume_from_path")
        return int(str(outside).rpartition("global_step_")[2]) if outside else 0


@dataclass(frozen=True)
class LeftOut:
    """A job that can't be run and was left out of a plan, as skip_invalid=true asks."""

    place: int
    """Among the jobs."""
    cell: str
    """What it sets, as overrides, and other jobs do not."""
    problems: list[str]


def plan_runs(
    jobs: Sequence[Composed], listed: bool = False, left_out: list[LeftOut] | None = None
) -> list[PlannedRun]:
    """Return the run of each job, in order; jobs that ask for the same run get the same object (see `distinct`).

    Raises UserError naming every problem of all jobs. Data sets are generated here, unless they exist already; no run's
    folder is made. `listed`: the jobs are arms that somebody wrote down. Then two jobs for the same run are a mistake,
    unless different files of sweeps/ share the run. `left_out`: takes the jobs that can't be run, and then the others
    are planned; without others, the problems are raised.
    """
    problems: dict[str, None] = {}
    faulty: dict[int, list[str]] = {}
    asked: dict[str, Composed] = {}
    memory: dict[str, Setup | None] = {}
    sweeps: dict[str, list[str]] = {}
    ids: list[str] = []
    unused: dict[str, str] = {}
    read: set[str] = set()
    for place, job in enumerate(jobs):
        config, findings, told = _check(job)
        unused |= told
        read |= job.touched.keys() - told.keys()
        if findings.problems:
            faulty[place] = findings.problems
            continue
        run_id = identity.run_id(config)
        ids.append(run_id)
        for sweep in config["sweeps"] or ([None] if listed else ()):
            if run_id in asked and (sweep is None or sweep in sweeps[run_id]):
                problems[_same_run(sweep, asked[run_id], job)] = None
        if (
            run_id not in asked
            or asked[run_id].config.trainer.total_training_steps < config["trainer"]["total_training_steps"]
        ):
            asked[run_id], memory[run_id] = job, findings.memory
        served = sweeps.setdefault(run_id, [])
        served += [sweep for sweep in config["sweeps"] or () if sweep not in served]
    # critic.optim.lr is no mistake in a command that compares GRPO and PPO: only its GRPO runs don't read it.
    problems |= dict.fromkeys(problem for key, problem in unused.items() if key not in read)
    if faulty and (left_out is None or len(faulty) == len(jobs)):
        problems = dict.fromkeys(_told(faulty, jobs, listed)) | problems
    elif left_out is not None:
        left_out += [LeftOut(place, cell, faulty[place]) for place, cell in _cells(faulty, jobs).items()]
    if problems:
        raise UserError(*problems)
    parts = dict(zip(asked, _parts(list(asked.values())), strict=True))
    folders = [Path(job.config.runs_dir).absolute() for job in asked.values()]
    # A run is found by its id: its name depends on how it was first asked for.
    there = {folder: {RunDir(path).id: path for path in entries(folder)} for folder in set(folders)}
    runs = {
        run_id: _plan(job, parts[run_id], sweeps[run_id], there[folder].get(run_id), folder, run_id, memory[run_id])
        for (run_id, job), folder in zip(asked.items(), folders, strict=True)
    }
    if found := [problem for run in runs.values() for problem in _checkpoint_problems(run)]:
        raise UserError(*found)
    return [runs[run_id] for run_id in ids]


def not_fetched(runs: Sequence[PlannedRun]) -> list[str]:
    """Return the hub names of the base models that are not in the hub's cache yet, so that nothing is known of them."""
    paths = dict.fromkeys(str(run.config["model"]["path"]) for run in runs)
    return [path for path in paths if hub_model.find(path) is None]


def distinct(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return each run once, in the order in which they were first asked for."""
    return list({run.folder.id: run for run in runs}.values())


def _check(job: Composed) -> tuple[dict[str, Any], Findings, dict[str, str]]:
    """Fill in the content that the config points at; return the resolved config and what is wrong with it.

    The last of the three has, by key, the problem of each key that the command sets although the run does not read it.
    """
    job.fill_in(numbers_as_verl_has_them(job.resolved()))
    config = job.resolved()
    unread = _unread(job, config)
    faults = faults_of(config)
    unmade: Sequence[str] = ()
    try:
        job.fill_in(content_of(Sound(config, faults) if faults else config))
    except Faulty:  # the data set can't be made from a faulty value, which preflight reports
        pass
    except UserError as error:
        unmade = error.problems
    config = job.resolved()
    findings = examine(config, faults)
    told = tuple(f"{key} must" for key in unread)  # what preflight says of the value of such a key would be twice
    found = [problem for problem in findings.problems if not problem.startswith(told)]
    return config, replace(findings, problems=list(dict.fromkeys([*unmade, *found]))), unread


def _unread(job: Composed, config: dict[str, Any]) -> dict[str, str]:
    """Return, by key, the problem of each key that the command sets although the run does not read it."""
    found = {}
    for key in job.touched:
        problem = unread_problem(key, config) or unknown_addition(key, job.groups.leaves)
        if problem:
            found[key] = problem
    return found


def _same_run(sweep: str | None, one: Composed, other: Composed) -> str:
    """Return the problem of two arms of a sweep, or of a command's commas, that are the same run."""
    said = [{**job.choices, **job.touched} for job in (one, other)]
    keys = [key for key in {**said[0], **said[1]} if repr(said[0].get(key)) != repr(said[1].get(key))]
    ways = [[override(key, mine[key]) for key in keys if key in mine and key != "sweeps"] for mine in said]
    by = f", by {' '.join(ways[0]) or 'default'} and by {' '.join(ways[1]) or 'default'}" if any(ways) else ""
    arm = names.run_name(names.arm_name(_parts([other])[0]), other.config.seed)
    of = f"sweeps/{sweep}.yaml" if sweep else "a sweep"
    return f"the arms of {of} must be different runs, but {arm} is asked for twice{by}; drop one of the two"


def _parts(jobs: Sequence[Composed]) -> list[list[str]]:
    """Return the parts of each job's arm: those of two arms differ."""
    return names.parts_of_arms([(job.choices, _named(_read(job)), job.groups.leaves) for job in jobs])


def _read(job: Composed) -> dict[str, Any]:
    """Return the changes of a job without the keys that its run does not read: they tell nothing of its arm."""
    without = unread(job.resolved())
    return {key: value for key, value in job.changes.items() if not without.fullmatch(key)}


def _named(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes with each path of a file or a folder that is there in full, however it was typed."""
    return {key: _absolute(value) if key in names.PATHS else value for key, value in changes.items()}


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(one) for one in value]
    path = Path(str(value)).expanduser()
    return str(path.absolute()) if isinstance(value, str) and path.exists() else value


def _cells(places: Collection[int], jobs: Sequence[Composed]) -> dict[int, str]:
    """Return for each job at these places the overrides that not all jobs share."""
    shared = set.intersection(*(set(job.overrides) for job in jobs))
    own = {place: [one for one in jobs[place].overrides if one not in shared] for place in places}
    return {place: " ".join(one for one in lines if not one.startswith("sweeps=")) for place, lines in own.items()}


def _told(faulty: Mapping[int, Sequence[str]], jobs: Sequence[Composed], listed: bool) -> list[str]:
    """Return the problems of jobs, each once; a problem of some jobs with what they set."""
    cells = _cells(faulty, jobs)
    skip = listed and len(faulty) < len(jobs)
    told = []
    for problem in dict.fromkeys(problem for problems in faulty.values() for problem in problems):
        where = [cells[place] for place, problems in faulty.items() if problem in problems]
        if len(where) == len(jobs):
            told.append(problem)
            continue
        do = f"; skip_invalid=true leaves {'it' if len(where) == 1 else 'them'} out" if skip else ""
        told.append(f"{problem} (in {several(where)}{do})")
    return told


def several(cells: Sequence[str]) -> str:
    """Return a few of the cells and how many more there are."""
    cells = list(dict.fromkeys(cells))
    more = f" and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
    return f"{', '.join(cells[:NAMED])}{more}"


def _plan(
    job: Composed,
    parts: Sequence[str],
    sweeps: Sequence[str],
    existing: Path | None,
    runs_dir: Path,
    run_id: str,
    memory: Setup | None,
) -> PlannedRun:
    """Return the run for a checked config, its name and paths filled in."""
    arm, seed = names.arm_name(parts), job.config.seed
    run = RunDir(existing or runs_dir / f"{names.run_name(arm, seed)}-{run_id}")
    run.check(lambda config: identity.run_id(config) == run_id)
    job.fill_in(
        {
            "trainer.experiment_name": run.path.name,
            "trainer.default_local_dir": str(run.checkpoints),
            "tracking.group": arm,
            "tracking.tags": [names.fitting(part, WANDB_TAG) for part in (*(parts or ["baseline"]), f"seed={seed}")],
            "sweeps": list(sweeps) or None,
            "show": None,
            "skip_invalid": False,
            "notify": None,
        }
    )
    steps = int(job.config.trainer.total_training_steps)
    state, reached = run.state(), run.reached()
    return PlannedRun(run.path.name, run, job.resolved(), job.config, steps, state, reached, memory=memory)


def _checkpoint_problems(run: PlannedRun) -> list[str]:
    """Return a problem if a run that goes on from a checkpoint is asked for with another number of devices."""
    trainer, ranks = run.config["trainer"], run.folder.checkpoint_ranks()
    asked = int(trainer["nnodes"]) * int(trainer["n_gpus_per_node"])
    if run.action not in ("resume", "extend") or ranks in (None, asked):
        return []
    return [
        f"{run.name} must go on with {ranks} GPUs (on a CPU: ranks), since veRL's checkpoint of step "
        f"{run.folder.checkpoint_step()} is cut for {ranks}, but is asked for with {asked}; set hardware.gpus_per_node"
    ]


def freeze(run: PlannedRun) -> PlannedRun:
    """Return the run with its config frozen in its folder, which is made if it is not there yet."""
    text = as_yaml(run.config)
    run.folder.create(text, code_version(), run.config)
    return replace(run, frozen=freeze_launch(run.folder.path, text, run.config))


def launched(launcher: str, run: PlannedRun, code: Path) -> dict[str, Any]:
    """Return the fields of a launch's event: the launcher, the last step, the frozen config, the copy of the code."""
    return {"launcher": launcher, "steps": run.steps, "config": run.frozen, "code": code.name}


def attempt_arguments(run: PlannedRun) -> list[str]:
    """Return the arguments of an attempt's command for a frozen run."""
    return [str(run.folder.path), "--steps", str(run.steps), "--config", run.frozen]
