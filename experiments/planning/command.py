"""Check a command before Hydra composes it: its keys, types and sweeps first, then everything else."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.config import pasted_script
from experiments.config.local_file import check_local
from experiments.config.overrides import checked
from experiments.config.sweep_compose import Composer
from experiments.config.sweep_jobs import SWEEPS, jobs
from experiments.errors import UserError
from experiments.planning.plan import plan_runs
from experiments.project import CONFIG_DIR


def check_command(overrides: Sequence[str]) -> None:
    """Raise one UserError if overrides are wrong; it also names the problems of the runs that the others ask for.

    If no override is wrong, nothing is raised: the plan comes later and reports every other problem. A command that is
    a script of early 2025 is answered as a whole.
    """
    if told := pasted_script.answer(overrides):
        raise UserError(told)
    command = checked(overrides)
    found, rest = list(command.problems), command.rest
    if rest is not None and any(line.startswith(f"{SWEEPS}=") for line in rest):
        try:
            jobs(rest)
        except UserError as error:
            found += error.problems
            rest = [line for line in rest if not line.startswith(f"{SWEEPS}=")]
    if rest is not None:
        try:
            check_local(rest)
        except UserError as error:
            found += error.problems
    if found:
        raise UserError(*dict.fromkeys([*found, *(_problems(rest) if rest is not None else ())]))


def _problems(rest: Sequence[str]) -> Sequence[str]:
    """Return the problems of the runs that the overrides ask for."""
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            composer = Composer.of_running_hydra()
            plan_runs([composer.compose(job) for job in jobs(rest)])
    except UserError as error:
        return error.problems
    except (HydraException, OmegaConfBaseException):  # the other overrides can't be composed without the wrong ones
        return ()
    return ()
