"""Print what a data set contains: `python -m experiments.planning.data_audit model=qwen2.5-3b task.source=hub`.

Takes any overrides. The model decides how many rows there are: few for the tiny model, the article's number for Qwen.

Counts the rows that the article's split keeps and those that it drops (rows without a solution, test problems that are
also train problems), and prints the ranges of the numbers and the targets.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from experiments.errors import UserError, print_errors
from experiments.tasks.countdown import hub
from experiments.tasks.countdown.dataset import SPACES, identity
from experiments.tasks.countdown.problems import Problem, generate
from experiments.tasks.dataset import arguments


def read_split(task: dict[str, Any]) -> tuple[list[Problem], int]:
    """Return (the problems of a resolved `task`, train problems first; how many of them are train problems)."""
    train, test = int(task["train_size"]), int(task["test_size"])
    if task["source"] != "generated":
        return hub.read(hub.locate(str(task["source"])), train + test), train
    space, seed = SPACES[task["space"]], int(task["data_seed"])
    held_out = generate(space, test, seed, held_out=True)
    return [*generate(space, train, seed, held_out=False), *held_out], train


def report(problems: Sequence[Problem], train: int) -> str:
    """Return the audit in words; `train`: how many of the problems, from the first, are for training."""
    _, _, counts = hub.split(list(problems), train)
    numbers = [number for problem in problems for number in problem.numbers]
    targets = [problem.target for problem in problems]
    sizes = Counter(len(problem.numbers) for problem in problems)
    kinds = ", ".join(f"{count:,} with {size} numbers" for size, count in sorted(sizes.items()))
    return (
        f"{counts}\nof {len(problems):,} rows read: {kinds}; numbers {min(numbers)} to {max(numbers)}, "
        f"targets {min(targets)} to {max(targets)}"
    )


def main() -> int:
    """Print the audit of the data set that the overrides choose; return the command's exit code."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from experiments.config.compose import compose_config, plain
    from experiments.config.overrides import check_overrides

    try:
        check_overrides(sys.argv[1:])
        config = plain(compose_config(sys.argv[1:]), resolve=True)
        identity(**arguments(config["task"], config["model"]["template"]))  # raises UserError if they are wrong
        print(report(*read_split(config["task"])))
    except UserError as error:
        problems = list(error.problems)
    except (HydraException, OmegaConfBaseException) as error:
        problems = [str(error)]
    except TypeError:  # the keys of another task, which countdown's functions do not accept
        problems = [f"task must be countdown for its audit, but is {config['task'].get('name')!r}; leave it out"]
    else:
        return 0
    return print_errors(problems)


if __name__ == "__main__":
    sys.exit(main())
