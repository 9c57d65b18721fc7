"""The folder that figures and tables go to."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.pages.study import Study
from analysis.records.record import RunRecord
from experiments.errors import UserError
from experiments.store.files import write_atomically


def shows_more(figure: Path, runs: Collection[RunRecord]) -> bool:
    """Return whether a figure that was drawn before shows none of these runs, but more than they would.

    The CSV file of the figure tells which runs it shows, and up to which steps.
    """
    ends: dict[str, int] = {}
    try:
        with open(figure.with_suffix(".csv"), newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["run"]:
                    ends[row["run"]] = max(ends.get(row["run"], 0), int(row["step"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return False
    here = {run.name: run.history.last_step() for run in runs if run.history.rows}
    return bool(ends) and not ends.keys() & here and (len(ends), sum(ends.values())) > (len(here), sum(here.values()))


@dataclass(frozen=True)
class OutputFolder:
    """A folder in which a file appears or is replaced as a whole, so that nobody ever opens half a figure."""

    path: Path

    def free_name(self, name: str, runs: Collection[RunRecord], told: str = "") -> str:
        """Return the name of a figure, with a number if one of other runs that shows more has the name already.

        `told`: how the name of the CSV file goes on that tells which runs the figure shows.
        """
        found, number = name, 1
        while shows_more(self.path / f"{found}{told}.png", runs):
            number += 1
            found = f"{name}--{number}"
        return found

    def keep_better(self, study: Study) -> tuple[Study, list[str]]:
        """Return (the study with free names for its figures, what is said of the figures that are kept)."""
        findings, kept = [], []
        for finding in study.findings:
            ablation = finding.ablation
            name = self.free_name(ablation.name, ablation.runs)
            if name != ablation.name:
                kept.append(f"{self.path / ablation.name}.csv shows other runs, and more: it is kept")
            findings.append(replace(finding, ablation=replace(ablation, name=name)))
        return replace(study, findings=findings), kept

    def write(self, name: str, content: bytes | str) -> Path:
        """Write `content` as the file `name` and return its path; UserError if the folder can't be written to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            data = content.encode("utf-8", "replace") if isinstance(content, str) else content
            write_atomically(self.path / name, data, durable=False)
        except OSError as error:
            raise UserError(
                f"{self.path} must be a folder that can be written to, but is not ({error.strerror}); "
                "make room or choose another with --out"
            ) from None
        return self.path / name
