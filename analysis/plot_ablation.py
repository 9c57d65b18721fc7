"""`python -m analysis.plot_ablation`: from the runs' records to one figure and one table per ablation."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import UserError


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments: run (a list), runs and out (paths)."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.plot_ablation",
        description="Group the runs by the setting they vary and draw validation accuracy, training reward, "
        "response length and format share by step. Writes PNG, SVG, CSV and a Markdown table per ablation.",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="*", help="a run's folder, or the beginning of its name or id (all)"
    )
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs"), help="the runs' folder (%(default)s)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("figures"), help="where to write (%(default)s)")
    return parser.parse_args(arguments)


def plot(folder: Path, wanted: Sequence[str], out: Path) -> list[Path]:
    """Draw every ablation of the runs, print tables and notes, and return the PNGs, the main one first."""
    from rich.console import Console

    from analysis.ablations import find_ablations
    from analysis.captions import caption
    from analysis.curves import comparable_curves
    from analysis.output import OutputFolder
    from analysis.sources.run_folders import RunFolders
    from analysis.tables import curves_csv, markdown, terminal_table

    records, warnings = RunFolders(folder, wanted).read()
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not any(record.history.rows for record in records):
        states = ", ".join(f"{count} {state}" for state, count in Counter(r.state for r in records).items())
        log = folder / records[0].name / "attempts"
        raise UserError(
            f"the runs under {folder} must have metrics to draw, but none has any yet ({states}); "
            f"wait for the first step, or see the logs in {log}"
        )

    from analysis.figures import render

    console, output, figures = Console(highlight=False), OutputFolder(out), []
    ablations = find_ablations(records)
    for ablation in ablations:
        if not any(run.history.rows for run in ablation.runs):
            continue
        curves, remarks = comparable_curves(ablation.runs)
        notes = [*caption(ablation), *remarks]
        png, svg = render(ablation, curves, notes)
        figures.append(output.write(f"{ablation.name}.png", png))
        output.write(f"{ablation.name}.svg", svg)
        output.write(f"{ablation.name}.csv", curves_csv(ablation, curves))
        output.write(f"{ablation.name}.md", markdown(ablation, curves, notes))
        console.print(terminal_table(ablation, curves))
        for note in notes:
            print(f"  {note}")
        print()
    shown = {run.name for ablation in ablations for run in ablation.runs}
    unseen: dict[str, list[str]] = {}
    for record, reason in ablations[0].left_out:
        if record.name not in shown:
            unseen.setdefault(reason, []).append(record.name)
    for reason, names in unseen.items():
        print(f"in no figure: {', '.join(names)}: {reason}")
    for figure in figures:
        print(f"{figure.with_suffix('')}.{{png,svg,csv,md}}")
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for a mistake that the user can put right."""
    options = parse(arguments)
    try:
        figures = plot(options.runs, options.run, options.out)
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return error.exit_code
    print(f"figure: {figures[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
