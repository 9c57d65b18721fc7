"""`python -m analysis.plot_ablation`: from the runs' records to figures and tables, a set for each ablation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.pages.options import add_options
from analysis.pages.study import read_study
from experiments.errors import UserError, nobody_reads, print_errors
from experiments.project import check_python

if TYPE_CHECKING:
    from analysis.pages.output import OutputFolder
    from analysis.pages.study import Finding, Study

WIDTH = 80  # columns, where the output is no terminal


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments: those of `analysis.pages.options`, and out (a path)."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.plot_ablation",
        description="Group the runs by the setting they vary and draw validation accuracy, training reward, "
        "response length and format share by step. Writes PNG, SVG, PDF, CSV, LaTeX and a Markdown page per ablation.",
    )
    add_options(parser)
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("figures"), help="where to write (%(default)s)")
    return parser.parse_args(arguments)


def plot(options: argparse.Namespace) -> list[Path]:
    """Draw every ablation of the runs, print tables and notes, and return the PNGs, the main one first."""
    study = read_study(options)
    for warning in study.warnings:
        print(f"warning: {warning}", file=sys.stderr)

    from analysis.pages.output import OutputFolder

    output = OutputFolder(options.out)
    study, kept = output.keep_better(study)
    figures = write_files(study, output)  # all of them before the first line: the reader of the lines may go away
    print_findings(study)
    for line in kept:
        print(line)
    for reason, names in study.unseen.items():
        print(f"in no figure: {', '.join(names)}: {reason}")
    for path in figures:
        kinds = [kind for kind in ("png", "svg", "pdf", "csv", "md") if path.with_suffix(f".{kind}").exists()]
        print(f"{path.with_suffix('')}.{{{','.join(kinds)}}}")
    return figures


def write_files(study: Study, output: OutputFolder) -> list[Path]:
    """Write every figure and table; return the main figures' PNGs."""
    from analysis.pages.formats import latex, table_csv
    from analysis.pages.overview import claim_numbers, overview_page
    from analysis.pages.rendering import render_overview, render_study
    from analysis.pages.tables import markdown

    for finding, drawn in zip(study.findings, render_study(study), strict=True):
        ablation, summary = finding.ablation, finding.summary
        for figure in drawn:
            for kind, content in figure.files.items():
                output.write(f"{figure.stem}.{kind}", content)
            output.write(f"{figure.stem}.csv", figure.numbers)
        about = f"{ablation.title} ({ablation.settings()}). {summary.note()}"
        output.write(f"{ablation.name}-arms.csv", table_csv(summary.numbers()))
        output.write(f"{ablation.name}-arms.tex", latex(summary.rows(), about))
        output.write(
            f"{ablation.name}.md",
            markdown(ablation, finding.curves, finding.notes, summary, finding.verdicts, study.tested(), finding.fits),
        )
    figures = [output.path / f"{finding.ablation.name}.png" for finding in study.findings]
    if of_all := render_overview(study):
        whole, shown = of_all
        runs = [run for finding in study.findings for run in finding.ablation.runs]
        stem = output.free_name(whole.stem, runs, "-runs")
        for kind, content in whole.files.items():
            output.write(f"{stem}.{kind}", content)
        output.write(f"{stem}.csv", whole.numbers)
        output.write(f"{stem}-runs.csv", shown)
        output.write(f"{stem}-claims.csv", table_csv(claim_numbers(study.findings)))
        output.write(f"{stem}.md", overview_page(study, stem))
        figures.append(output.path / f"{stem}.png")
    return figures


def print_findings(study: Study) -> None:
    """Print the tables, notes and verdicts of every ablation."""
    from rich.console import Console

    from analysis.pages.tables import family_text, terminal_tables

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for finding in study.findings:
        for table in terminal_tables(finding.ablation, finding.curves, finding.summary, console.width):
            with console.capture() as capture:  # rich itself would end the program where nobody reads
                console.print(table)
            print(capture.get(), end="")
        for note in finding.notes:
            print(f"  {note}")
        for line in finding.fits.lines():
            print(f"  {line}")
        for line in verdict_lines(finding):
            print(f"  {line}")
        print()
    if family := family_text(study.tested()):
        print(f"{family} So corrected, a verdict marked (by itself) is undecided.\n")


def verdict_lines(finding: Finding) -> list[str]:
    """Return a line for each claim, or a single one where no arm has a second seed, so that none can be decided."""
    verdicts = finding.verdicts
    seeds = max(map(len, finding.summary.estimand.counted.values()), default=0)
    if verdicts and seeds <= 1 and all(verdict.p is None for verdict in verdicts):
        claims = f"{len(verdicts)} claims, none decided" if len(verdicts) > 1 else "1 claim, undecided"
        return [f"{claims}: one seed decides nothing; add seed=1,2,3"]
    return [
        f"{verdict.verdict}{' (by itself)' if verdict.verdict != verdict.corrected else ''}: {verdict.claim.text}"
        for verdict in verdicts
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for a mistake that the user can put right."""
    options = parse(arguments)
    check_python("matplotlib")
    try:
        figures = plot(options)
        print(f"figure: {figures[0]}", flush=True)
    except UserError as error:
        return print_errors(error.problems)
    except BrokenPipeError:  # `... | head`: the files are all written
        return nobody_reads()
    return 0


if __name__ == "__main__":
    sys.exit(main())
