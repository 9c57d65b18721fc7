"""The options of a command line, and what is wrong with their values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError

if TYPE_CHECKING:
    from analysis.records.record import RunRecord


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all commands of the analysis share."""
    _add_run_options(parser.add_argument_group("which runs"))
    _add_comparison_options(parser.add_argument_group("what is compared"))
    _add_drawing_options(parser.add_argument_group("how it is drawn"))


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "run", metavar="RUN", nargs="*", help="a run's folder, or the beginning of its name or id (default: all runs)"
    )
    group.add_argument(
        "--source",
        "--runs",
        metavar="PLACE",
        default="runs",
        help="a folder of runs, a folder with .wandb files, one such file, or wandb://ENTITY/PROJECT (%(default)s)",
    )
    group.add_argument(
        "--filter",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only runs with this config value, state, tags, group or name; != for all others; may be repeated",
    )
    group.add_argument(
        "--complete-from",
        metavar="STEP",
        type=int,
        default=None,
        help="count every run that reached this step as complete, e.g. runs without an end that were stopped by hand",
    )
    group.add_argument(
        "--trainers",
        metavar="FILE",
        type=Path,
        default=None,
        help="YAML file with the names that a trainer other than veRL gives its steps and metrics",
    )


def _add_comparison_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--baseline",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="the arm that the others are compared with (default: the plan's); may be repeated",
    )
    group.add_argument(
        "--until",
        metavar="STEP",
        type=int,
        default=None,
        help="compare the arms up to this step (the last step of the shortest arm)",
    )
    group.add_argument(
        "--equal",
        metavar="AXIS",
        default="step",
        help="compare at equal samples, tokens, hours or gpu_hours instead of steps, and draw against it (step)",
    )
    group.add_argument(
        "--last",
        metavar="K",
        type=int,
        default=None,
        help="validations whose mean is the final accuracy (those of the last fifth of the steps)",
    )
    group.add_argument(
        "--threshold",
        metavar="ACCURACY",
        type=float,
        default=None,
        help="count the steps and GPU-hours to this accuracy (the highest multiple of 0.05 that every run reaches)",
    )
    group.add_argument(
        "--robust",
        action="store_true",
        help="show the interquartile mean and the probability to beat the baseline too",
    )


def _add_drawing_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--x", metavar="AXIS", default=None, help="step, samples, tokens, hours or gpu_hours (step, or as --equal says)"
    )
    group.add_argument(
        "--smooth",
        metavar="HOW",
        default="none",
        help="training curves: none, or as W&B smooths them, e.g. twema:0.9 (%(default)s)",
    )
    group.add_argument(
        "--panels",
        metavar="NAMES",
        default="",
        help="instead of the usual panels: sampled, greedy, reward, length, format or any metric, with commas between",
    )
    group.add_argument(
        "--width",
        metavar="INCHES",
        type=float,
        default=9.6,
        help="of the figures, e.g. 3.3 for one column of a journal (%(default)s)",
    )
    group.add_argument(
        "--pass-at", metavar="KS", default="", help="pass@k by step for these k, e.g. 1,4 (default: 1, 2, 4 ...)"
    )
    group.add_argument("--no-notes", action="store_true", help="write no notes below the figures")
    group.add_argument(
        "--phrases",
        metavar="TEXTS",
        default="",
        help=r"what to count in the sampled texts, with commas between; \, is a comma within a phrase",
    )


def check_numbers(options: argparse.Namespace) -> None:
    """Raise UserError if --last or --threshold is out of its range."""
    problems = []
    if not 2.5 <= options.width <= 40:
        problems.append(f"--width must be from 2.5 to 40 inches, but is {options.width:g}; e.g. 3.3")
    if options.complete_from is not None and options.complete_from < 1:
        problems.append(f"--complete-from must be a step, 1 or more, but is {options.complete_from}; e.g. 60")
    if options.until is not None and options.until < 1:
        problems.append(f"--until must be a step, 1 or more, but is {options.until}; e.g. 60")
    if options.until is not None and options.equal != "step":
        problems.append(f"--until must be left out with --equal {options.equal}, which compares up to a cost; drop one")
    if options.last is not None and options.last < 1:
        problems.append(f"--last must be 1 or more validations, but is {options.last}; e.g. 3")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        problems.append(f"--threshold must be an accuracy from 0 to 1, but is {options.threshold:g}; e.g. 0.4")
    if problems:
        raise UserError(*problems)


def parse_ks(text: str) -> list[int]:
    """Return the k that `--pass-at` names, ascending; UserError for one that is no whole number of at least 1."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := [part for part in given if not (part.isdecimal() and int(part))]:
        raise UserError(f"--pass-at must be whole numbers of at least 1, but is {', '.join(wrong)}; e.g. 1,4")
    return sorted({int(part) for part in given})


def find_panels(text: str, records: Sequence[RunRecord]) -> list[str]:
    """Return the curves and metrics that `--panels` names; UserError for one that no run recorded."""
    import difflib

    from analysis.records.curves import TRAINING, VALIDATION_CURVES

    usual = (*VALIDATION_CURVES, *TRAINING)
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {metric for record in records for metric in record.history.metrics()} if names else set()
    problems = []
    for name in names:
        if name not in usual and name not in known:
            near = difflib.get_close_matches(name, [*usual, *sorted(known)], n=3, cutoff=0.0)
            problems.append(f"--panels must name metrics, but no run recorded {name!r}; nearest: {', '.join(near)}")
    if problems:
        raise UserError(*problems)
    return names
