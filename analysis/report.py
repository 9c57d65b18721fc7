"""`python -m analysis.report`: all ablations on one HTML page, which needs no other file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.pages.options import add_options
from analysis.pages.study import read_study
from experiments.errors import UserError, nobody_reads, print_errors
from experiments.project import check_python


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments: those of `analysis.pages.options`, out (a path) and steps (a list)."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write one HTML page with the figures, verdicts on the article's claims, tables, sample texts, "
        "what was left out, and how to reproduce it. It needs no network to be read.",
    )
    add_options(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("figures/report.html"), help="(%(default)s)")
    parser.add_argument(
        "--steps",
        metavar="N",
        type=int,
        nargs="+",
        default=None,
        help="of which steps to show sample texts (default: first, middle and last)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for a mistake that the user can put right."""
    options = parse(arguments)
    check_python("matplotlib")
    try:
        if options.out.is_dir():
            raise UserError(f"--out must be a file, but {options.out} is a folder; e.g. {options.out / 'report.html'}")
        study = read_study(options)
        from analysis.pages.output import OutputFolder
        from analysis.pages.web_page import page

        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "analysis.report", *given])
        path = OutputFolder(options.out.parent).write(options.out.name, page(study, command, options.steps))
        for warning in study.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(f"report: {path}", flush=True)
    except UserError as error:
        return print_errors(error.problems)
    except BrokenPipeError:
        return nobody_reads()
    return 0


if __name__ == "__main__":
    sys.exit(main())
