"""The command `python -m experiments.runs`: it parses the command line and calls the module of each subcommand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.errors import INTERRUPTED, UserError, nobody_reads, of_the_system, print_errors
from experiments.project import check_python


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(
        prog="python -m experiments.runs",
        description="Look after the runs in a folder.",
        epilog="RUN is any unambiguous prefix of a run's name or id.",
    )
    where = "where the runs' folders are (default: runs)"
    top.add_argument("--runs-dir", type=Path, default=Path("runs"), help=where)
    common = argparse.ArgumentParser(add_help=False)
    # No default: argparse would put it in the place of what stands before the command.
    common.add_argument("--runs-dir", type=Path, default=argparse.SUPPRESS, help=where)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, runs: str | int | None = None) -> argparse.ArgumentParser:
        description = f"{summary[0].upper()}{summary[1:]}."
        made = commands.add_parser(name, help=summary, description=description, parents=[common])
        if runs is not None:
            made.add_argument("runs", nargs=runs, metavar="RUN", help="a prefix of a run's name or id")
        return made

    listing = command("list", "every run at a glance: state, step, accuracy, pace")
    listing.add_argument(
        "filters",
        nargs="*",
        metavar="WORD | KEY=VALUE",
        help="only runs with the word in their name, or with the value: state=failed rollout.temperature=0.6; "
        "KEY!=VALUE for all others; * and ? in a text",
    )
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.add_argument("--watch", action="store_true", help="show the list again and again, until Ctrl-C")
    command("show", "one run: config against the baseline, events, attempts, last samples", 1)
    logs = command("logs", "what the run's last attempt printed", 1)
    logs.add_argument("-f", "--follow", action="store_true", help="print what comes until the run ends")
    command("cancel", "end runs that are running or waiting", "+")
    command("retry", "launch failed runs again, as they were frozen (default: all that failed)", "*")
    command("diff", "how two runs differ", 2)
    clean = command("clean", "delete the checkpoints of finished runs (default: of all)", "*")
    clean.add_argument("--yes", action="store_true", help="don't ask")
    export = command("export", "write a checkpoint as a Hugging Face folder, with a card", 1)
    export.add_argument("folder", metavar="DIR", type=Path, help="where: a new or empty folder")
    evaluate = command("evaluate", "sample a checkpoint on problems and score it: accuracy, format, pass@k", 1)
    evaluate.add_argument("--samples", type=int, default=64, metavar="N", help="answers to a problem (%(default)s)")
    evaluate.add_argument(
        "--data", type=Path, metavar="FILE", help="a .parquet, .json or .jsonl of problems (default: the validation's)"
    )
    sample = command("sample", "show what a checkpoint says to a prompt, or to a problem of the task", 1)
    sample.add_argument("prompt", nargs="?", metavar="PROMPT", help="a whole prompt (default: a validation problem)")
    sample.add_argument("--problem", type=int, metavar="K", help="the validation problem with this number (0)")
    sample.add_argument("--greedy", action="store_true", help="always the likeliest token")
    for of_a_checkpoint in (export, evaluate, sample):
        of_a_checkpoint.add_argument(
            "--step", type=int, metavar="N", help="the step of the checkpoint; 0: the base model (default: the newest)"
        )
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's arguments. A prompt may stand behind options, which argparse alone does not take."""
    top = parser()
    arguments, more = top.parse_known_args(argv)
    if more and arguments.command == "sample" and arguments.prompt is None and not more[0].startswith("-"):
        arguments.prompt = more.pop(0)
    if more:
        top.error(f"unrecognized arguments: {' '.join(more)}")
    return arguments


def execute(arguments: argparse.Namespace) -> int:
    """Execute a command; return its exit code."""
    from experiments.runs.find import find_all
    from experiments.runs.status import settle

    if arguments.command == "list":
        from experiments.runs.listing import list_runs

        return list_runs(arguments.runs_dir, arguments.filters, arguments.json, arguments.watch)
    if arguments.command == "diff":
        from experiments.runs.find import find
        from experiments.runs.show import diff

        first, second = (find(arguments.runs_dir, name) for name in arguments.runs)
        return diff(first, second)
    runs = find_all(arguments.runs_dir, arguments.runs)
    for note in settle(runs):
        print(note, file=sys.stderr)
    if arguments.command == "show":
        from experiments.runs.show import show

        return show(runs[0])
    if arguments.command == "logs":
        from experiments.runs.logs import logs

        return logs(runs[0], arguments.follow)
    if arguments.command == "export":
        from experiments.runs.export import export

        return export(runs[0], arguments.folder, arguments.step)
    if arguments.command == "evaluate":
        from experiments.runs.evaluate import evaluate

        return evaluate(runs[0], arguments.step, arguments.samples, arguments.data)
    if arguments.command == "sample":
        from experiments.runs.sample import sample

        return sample(runs[0], arguments.step, arguments.prompt, arguments.problem, arguments.greedy)
    if arguments.command == "cancel":
        from experiments.runs.cancel import cancel

        return cancel(runs)
    from experiments.runs.find import readable_runs

    if arguments.command == "retry":
        from experiments.runs.retry import failed_among, retry

        return retry(runs or failed_among(readable_runs(arguments.runs_dir)))
    from experiments.runs.clean import clean

    return clean(runs or readable_runs(arguments.runs_dir), bool(runs), arguments.yes)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the command's exit code: 0 done, 1 a run failed, 2 the user can mend it, 130 interrupted."""
    arguments = parse(argv)
    check_python("rich")
    try:
        return execute(arguments)
    except UserError as error:
        return print_errors(error.problems)
    except BrokenPipeError:
        return nobody_reads()
    except OSError as error:
        return print_errors([of_the_system(error)])
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
