"""Check a command before Hydra composes it: its keys, types and sweeps first, then everything else."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.config import pasted_script
from experiments.config.hydra_choices import hydra_choices
from experiments.config.local_file import check_local
from experiments.config.overrides import checked, parse
from experiments.config.sweep_compose import Composer
from experiments.config.sweep_jobs import ARMS, SWEEPS, jobs, listed_arms
from experiments.errors import UserError
from experiments.planning.plan import plan_runs
from experiments.project import CONFIG_DIR


def check_command(overrides: Sequence[str]) -> list[str]:
    """Return the overrides in the form in which Hydra takes them.

    Raises one UserError if overrides are wrong; it also names the problems of the runs that the others ask for. If no
    override is wrong, nothing is raised: the plan comes later and reports every other problem. A command that is a
    script of early 2025 is answered as a whole.
    """
    if told := pasted_script.answer(overrides):
        raise UserError(told)
    parsed, wrong = parse(overrides)
    found: list[str] = []
    if not wrong:
        try:
            more, _ = parse(hydra_choices(parsed))
        except UserError as error:
            found, more = list(error.problems), []
        parsed = [*more, *parsed]
        overrides = [*(item.input_line or "" for item in more), *overrides]
    listed: Sequence[Sequence[str]] = ()
    unlisted = False
    try:
        listed = [arm.overrides() for arm in listed_arms(parsed) or ()]
    except UserError as error:
        unlisted = True
        found += error.problems
    command = checked(overrides, listed)
    rest = command.rest
    if unlisted and rest is not None:
        rest = [line for line in rest if not line.startswith((f"{SWEEPS}=", f"{ARMS}="))]
    found += command.problems
    if listed and rest is not None:
        try:
            jobs(rest)
        except UserError as error:
            found += error.problems
            rest = None
    if rest is not None:
        try:
            check_local(rest)
        except UserError as error:
            found += error.problems
    if found:
        raise UserError(*dict.fromkeys([*found, *(_problems(rest) if rest is not None else ())]))
    return [
        _of_jobs(item) if item.input_line in command.partial or item.key_or_group == ARMS else item.input_line or ""
        for item in parsed
    ]


def _of_jobs(item: Override) -> str:
    """Return an override in a form that Hydra leaves to the jobs: a sweep over one value.

    Hydra first composes the config of the sweeping command, in which no swept group is chosen and no arm is listed.
    """
    if item.is_sweep_override():
        return item.input_line or ""
    return f"{item.get_key_element()}=choice({item.get_value_element_as_str()})"


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
