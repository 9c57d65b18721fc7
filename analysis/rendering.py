"""All files of a study's figures, drawn by as many processes as there are cores: one would take seconds."""

from __future__ import annotations

import multiprocessing
import os

from analysis.extra_figures import extras
from analysis.figures import render, save, styled
from analysis.study import Study
from analysis.tables import curves_csv, table_csv

Files = dict[str, bytes]
"""{file name: content}."""

_study: Study


def render_study(study: Study) -> list[Files]:
    """Return the files of each finding, in their order; the same study gives the same bytes."""
    tasks = [(place, main) for place in range(len(study.findings)) for main in (True, False)]
    workers = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, len(tasks))
    # A forked process has the study already; nothing but the files travels.
    with multiprocessing.get_context("fork").Pool(workers, _remember, (study,)) as pool:
        parts = pool.starmap(_render, tasks, chunksize=1)
    return [parts[place] | parts[place + 1] for place in range(0, len(parts), 2)]


def _remember(study: Study) -> None:
    global _study
    _study = study


def _render(place: int, main: bool) -> Files:
    """Return the files of a finding's main figure, or those of its other figures."""
    finding = _study.findings[place]
    name = finding.ablation.name
    files: Files = {}
    if main:
        figure = render(finding.ablation, finding.curves, finding.notes, _study.view, _study.panels)
        files = {f"{name}.{kind}": content for kind, content in figure.items()}
        files[f"{name}.csv"] = curves_csv(finding.ablation, finding.curves, _study.view).encode()
        return files
    with styled():
        for extra in extras(finding.ablation, _study.phrases):
            for kind, content in save(extra.figure, extra.title).items():
                files[f"{name}-{extra.name}.{kind}"] = content
            files[f"{name}-{extra.name}.csv"] = table_csv(extra.numbers).encode()
    return files
