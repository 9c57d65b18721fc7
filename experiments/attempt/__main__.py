"""`python -m experiments.attempt RUN_FOLDER [--steps N] [--config NAME]`."""

import argparse
import sys
from pathlib import Path

from experiments.attempt.execution import execute
from experiments.errors import UserError, print_errors
from experiments.store.frozen import FIRST
from experiments.store.rundir import RunDir


def main() -> int:
    """Return the command's exit code: 0 done, 1 failed, 2 the user can mend it, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.attempt", description="Execute one attempt of a run that has been planned."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--steps", type=int, help="train to this step (default: the frozen config's)")
    parser.add_argument("--config", default=FIRST, help="which frozen config in the folder (default: the first)")
    arguments = parser.parse_args()
    try:
        return execute(RunDir(arguments.run.absolute()), arguments.steps, arguments.config)
    except UserError as error:
        return print_errors(error.problems)


if __name__ == "__main__":
    sys.exit(main())
