"""Countdown's rows, generated or from the hub's data set. experiments/tasks/dataset.py calls `identity` and `build`.

All generated problems are distinct up to the order of their numbers. The test problems are held-out ones (see
problems.is_held_out), the train problems are not. In the hub's data set, or a copy of it, the first task.train_size
rows are the train problems and the next task.test_size rows the test problems, as in the article; hub.split says which
rows are dropped.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from experiments.errors import UserError
from experiments.tasks.countdown import hub
from experiments.tasks.countdown.problems import ARTICLE, MINIATURE, Problem, generate
from experiments.tasks.countdown.prompts import TEMPLATES, render
from experiments.tasks.rows import Row

FORMAT = 2  # raise it when the rows or the way problems are drawn change, so that no old cache is taken for new
SPACES = {"article": ARTICLE, "miniature": MINIATURE}


def identity(source: str, space: str, train_size: int, test_size: int, data_seed: int, template: str) -> dict[str, Any]:
    """Return all that determines the rows.

    Raises UserError: a size, the template or the space is wrong, or the source can't be read.
    """
    problems = []
    if not isinstance(template, str) or template not in TEMPLATES:
        problems.append(
            f"model.template must be one of {', '.join(TEMPLATES)}, but is {template!r}; set it to one of them"
        )
    if not isinstance(source, str) or not source:
        problems.append(f"task.source must be generated, hub or the path of a copy, but is {source!r}; leave it out")
    if not isinstance(space, str) or space not in SPACES:
        problems.append(f"task.space must be article or miniature, but is {space!r}; leave it out")
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if not isinstance(size, int) or size < 1:
            problems.append(f"task.{name} must be a whole number of at least 1, but is {size!r}; try 1000")
    if problems:
        raise UserError(*problems)
    # The template's text and not its name, since an edited template makes another data set.
    common = {"format": FORMAT, "template": TEMPLATES[template], "train_size": train_size, "test_size": test_size}
    if source == "generated":
        return {**common, "space": asdict(SPACES[space]), "seed": data_seed}
    return {**common, "hub": hub.digest(hub.locate(source))}


def build(
    source: str, space: str, train_size: int, test_size: int, data_seed: int, template: str
) -> tuple[Iterator[Row], Iterator[Row]]:
    """Return the train and the test rows.

    Raises UserError: the space does not have so many problems; the source is no such file, is too short, has a
    malformed row, or leaves no train problem or no test problem.
    """
    if source == "generated":
        test = generate(SPACES[space], test_size, data_seed, held_out=True)
        train = generate(SPACES[space], train_size, data_seed, held_out=False)
    else:
        train, test, _ = hub.split(hub.read(hub.locate(source), train_size + test_size), train_size)
    return _rows(train, template), _rows(test, template)


def _rows(problems: Iterable[Problem], template: str) -> Iterator[Row]:
    for problem in problems:
        truth = {"target": problem.target, "numbers": list(problem.numbers)}
        yield {"prompt": render(template, problem), "ground_truth": truth, "ability": "math"}
