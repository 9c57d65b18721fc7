"""All figures of a study. As many processes as there are cores draw them: one process would take seconds."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from analysis.figures.main import render, save
from analysis.figures.overview import Part, overview, runs_shown
from analysis.figures.responses import extras
from analysis.figures.style import NARROW, styled
from analysis.pages.formats import table_csv
from analysis.pages.study import Study
from analysis.pages.tables import curves_csv
from analysis.records.passes import Passes, read_passes
from analysis.records.record import RunRecord
from analysis.records.rollouts import Shares, find_rollouts
from analysis.statistics.pass_at import check_wanted
from experiments.errors import UserError

KINDS = ("png", "svg", "pdf")
COUNTED_STEPS = 60  # for how many steps of a run phrases are counted: a panel three inches wide shows no more

_study: Study


@dataclass(frozen=True)
class Drawn:
    """A figure as files."""

    stem: str
    title: str
    files: dict[str, bytes]
    """{kind of file: its content}."""
    numbers: str
    """What is drawn, as CSV."""


def render_study(study: Study, kinds: Sequence[str] = KINDS, captions: bool = True) -> Iterator[list[Drawn]]:
    """Yield each finding's figures, the main one first; the same study gives the same bytes.

    `captions`: whether the main figure has its notes below it.
    """
    arms = [arm for finding in study.findings for arm in finding.ablation.arms]
    everyone = list({run.name: run for arm in arms for run in arm.averaged}.values())
    runs = [run for run in everyone if run.folder]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, max(len(runs), 2 * len(study.findings)))
    longest = max((run.history.last_step() for run in runs), default=0)
    every = max(1, math.ceil(longest / COUNTED_STEPS))
    # A forked process inherits the study. Only the shares of phrases and the files are sent between processes.
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(workers, context, _remember, (study,)) as pool:
            counted = pool.map(_shares, runs, [study.phrases] * len(runs), [every] * len(runs))
            right = pool.map(read_passes, everyone)
            said = {run.name: shares for run, shares in zip(runs, counted, strict=True)}
            passed = {run.name: passes for run, passes in zip(everyone, right, strict=True)}
            check_wanted(study.pass_at, list(passed.values()))
            drawn = [
                (pool.submit(_main, place, kinds, captions), pool.submit(_others, place, kinds, said, passed))
                for place in range(len(study.findings))
            ]
            while drawn:  # each is dropped once it is handed on: the files of many runs are large
                main, others = drawn.pop(0)
                yield [main.result(), *others.result()]
    except BrokenProcessPool:
        raise UserError(
            "the processes that draw must live until they are done, but one was ended, as the system does where memory "
            "runs out; end other programs, or draw fewer runs at once with --filter"
        ) from None


def render_overview(study: Study, kinds: Sequence[str] = KINDS) -> tuple[Drawn, str] | None:
    """Return the figure of all ablations and, as CSV, the runs that it shows; None for fewer than two ablations."""
    parts = [Part(finding.ablation, finding.curves) for finding in study.findings]
    if len(parts) < 2:
        return None
    with styled(small=study.width < NARROW):
        extra = overview(parts, study.view, study.width, study.notes)
        files = save(extra.figure, extra.title, kinds)
        return Drawn(extra.name, extra.title, files, table_csv(extra.numbers)), table_csv(runs_shown(parts))


def _remember(study: Study) -> None:
    """Begin a process that draws. It must end when it is told to, whatever the program that forked it does then."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    global _study
    _study = study


def _shares(run: RunRecord, phrases: Sequence[str], every: int) -> Shares:
    return find_rollouts(run).shares(phrases, every)


def _main(place: int, kinds: Sequence[str], captions: bool) -> Drawn:
    """Return a finding's main figure."""
    finding, view = _study.findings[place], _study.view
    ablation, notes = finding.ablation, finding.notes if captions and _study.notes else []
    estimand = finding.summary.estimand
    until = estimand.until if estimand.beyond else None
    files = render(ablation, finding.curves, notes, view, _study.panels, kinds, _study.width, until)
    return Drawn(ablation.name, ablation.title, files, curves_csv(ablation, finding.curves, view))


def _others(place: int, kinds: Sequence[str], said: Mapping[str, Shares], passed: Mapping[str, Passes]) -> list[Drawn]:
    """Return a finding's other figures."""
    study, finding = _study, _study.findings[place]
    ablation = finding.ablation
    width = study.width
    with styled(small=width < NARROW):
        made = extras(
            ablation, study.view, said, study.phrases, width, study.notes, passed, study.pass_at, finding.fits
        )
        return [
            Drawn(f"{ablation.name}-{e.name}", e.title, save(e.figure, e.title, kinds), table_csv(e.numbers))
            for e in made
        ]
