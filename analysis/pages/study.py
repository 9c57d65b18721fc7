"""What the options of a command line ask for: the runs, their ablations, and what each ablation shows."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


def read_study(options: argparse.Namespace) -> Study:
    """Return the study that the options ask for; UserError if an option is wrong or no run has made a step."""
    from analysis.design.ablations import find_ablations
    from analysis.design.sweeps import read_sweeps
    from analysis.figures.captions import caption
    from analysis.figures.series import View
    from analysis.figures.smoothing import parse_smoothing
    from analysis.pages.options import check_numbers, find_panels, parse_ks
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
