"""The options of a command line, and what they ask for: the runs, their ablations, and what each ablation shows."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import UserError

if TYPE_CHECKING:
    from analysis.design.ablations import Ablation
    from analysis.figures.series import View
    from analysis.records.curves import Curves
    from analysis.records.record import RunRecord
    from analysis.statistics.arm_fits import Fits
    from analysis.statistics.claims import Verdict
    from analysis.statistics.summary import Summary


@dataclass(frozen=True)
class Finding:
    """An ablation, and what is shown of it."""

    ablation: Ablation
    curves: Mapping[str, Curves]
    """{run name: its curves}."""
    notes: list[str]
    """The figure's caption."""
    verdicts: list[Verdict]
    summary: Summary
    fits: Fits
    """Where accuracy would end, arm by arm."""


@dataclass(frozen=True)
class Study:
    """The runs that were asked for, and what they show."""

    records: list[RunRecord]
    warnings: list[str]
    """One for each thing that could not be read as it should."""
    findings: list[Finding]
    """One for each ablation in which a run has made a step."""
    unseen: dict[str, list[str]]
    """{reason: names of the runs that are in no figure for this reason}."""
    view: View
    panels: list[str]
    width: float
    """Inches of a figure."""
    notes: bool
    """Whether notes are written below the figures."""
    phrases: Sequence[str]
    pass_at: Sequence[int]
    """The k of pass@k by step; none: 1, 2, 4 ... up to the answers to a problem."""

    def tested(self) -> int:
        """Return how many claims were tested together: the family over which verdicts are corrected."""
        return sum(verdict.p is not None for finding in self.findings for verdict in finding.verdicts)

    def varied(self) -> list[str]:
        """Return the config keys that the ablations vary, and those that come along with them."""
        ablations = [finding.ablation for finding in self.findings]
        keys = [key for one in ablations for key in (*(factor.key for factor in one.factors), *one.companions)]
        return list(dict.fromkeys(keys))


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


def read_study(options: argparse.Namespace) -> Study:
    """Return the study that the options ask for; UserError if an option is wrong or no run has made a step."""
    from analysis.design.ablations import find_ablations
    from analysis.design.sweeps import read_sweeps
    from analysis.figures.captions import caption
    from analysis.figures.series import View
    from analysis.figures.smoothing import parse_smoothing
    from analysis.records.axes import find_axis
    from analysis.records.curves import comparable_curves
    from analysis.records.rollouts import parse_phrases
    from analysis.sources.filters import parse_filters
    from analysis.sources.open import open_source
    from analysis.sources.trainers import read_trainers
    from analysis.statistics.arm_fits import fit_arms
    from analysis.statistics.claims import corrected, judge
    from analysis.statistics.equal_cost import at_equal_cost
    from analysis.statistics.estimand import check_until, find_estimand
    from analysis.statistics.summary import NO_COMMON_STEP, summarise

    equal, pass_at = find_axis(options.equal, "--equal"), parse_ks(options.pass_at)
    view = View(find_axis(options.x or options.equal), parse_smoothing(options.smooth))
    check_numbers(options)
    trainers = read_trainers(options.trainers) if options.trainers else None
    records, warnings = open_source(options.source, options.run, parse_filters(options.filter), trainers).read()
    if options.complete_from is not None:
        records = [replace(record, complete_from=options.complete_from) for record in records]
    if not any(record.history.rows for record in records):
        states = ", ".join(f"{count} {state}" for state, count in Counter(r.state for r in records).items())
        logs = f", or see the logs in {records[0].folder / 'attempts'}" if records[0].folder else ""
        raise UserError(
            f"the runs under {options.source} must have metrics to draw, but none has any yet ({states}); "
            f"wait for the first step{logs}"
        )
    check_trained(records)
    panels = find_panels(options.panels, records)
    ablations = find_ablations(records, read_sweeps(), parse_filters(options.baseline, "--baseline"))
    findings = []
    for ablation in ablations:
        if any(run.history.rows for run in ablation.runs):
            curves, remarks = comparable_curves(ablation.runs, panels)
            notes = [*caption(ablation, view, panels), *remarks]
            counted, cost, told = at_equal_cost(ablation, equal) if equal.cost else (ablation, None, "")
            values = comparable_curves(counted.runs, panels)[0] if equal.cost else curves
            estimand = find_estimand(counted, options.until, options.last, cost)
            verdicts = judge(counted, ablation.sweep, estimand) if ablation.sweep else []
            summary = summarise(counted, values, None, options.threshold, estimand, options.robust)
            notes += [told] if told else []
            notes += [note for note in (estimand.note(), NO_COMMON_STEP * summary.has_no_common_step()) if note]
            fits = fit_arms(ablation, curves, summary.curve, estimand, view.axis)
            findings.append(Finding(ablation, curves, notes, verdicts, summary, fits))
    families = corrected([finding.verdicts for finding in findings])
    findings = [replace(finding, verdicts=verdicts) for finding, verdicts in zip(findings, families, strict=True)]
    check_until([finding.summary.estimand for finding in findings], ablations, options.until)
    shown = {run.name for ablation in ablations for run in ablation.runs}
    unseen: dict[str, list[str]] = {}
    for record, reason in ablations[0].left_out:
        if record.name not in shown:
            unseen.setdefault(reason, []).append(record.name)
    phrases = parse_phrases(options.phrases)
    return Study(
        records, warnings, findings, unseen, view, panels, options.width, not options.no_notes, phrases, pass_at
    )


def check_trained(records: Sequence[RunRecord]) -> None:
    """Raise UserError if no run has a row of a trained step: then nobody knows what its rows are of."""
    logged = [record for record in records if record.history.rows]
    if not any(record.history.last_step() for record in logged):
        if all(max(record.history.rows) == 0 for record in logged):
            return  # the validation of untrained models
        names = sorted({metric for record in logged for metric in record.history.metrics()})
        raise UserError(
            "the runs must log trained steps by names that are known, but none does; they have "
            f"{', '.join(names[:6])}{', ...' if len(names) > 6 else ''}; name their steps in a file, --trainers FILE "
            "(in the form of analysis/sources/trainers.yaml)"
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
