"""Draw the problems of a data set of reasoning-gym, in a process of its own: importing the package takes seconds.

The process has PYTHONHASHSEED=0 (user_code.ask), and Python's and NumPy's generators are seeded. Six data sets depend
on the order of sets, and one on Python's own generator, whatever seed they are given.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.errors import UserError
from experiments.tasks import user_code
from experiments.tasks.reasoning_gym.judge import scorer
from experiments.tasks.reasoning_gym.offered import REFUSED
from experiments.tasks.user_code import short

ROUNDS = 20  # data sets that are drawn at most; each has as many problems as are wanted
FRUITLESS = 0.01  # the data set counts as used up after a round in which fewer problems than this share are new
OURS = ("seed", "size")  # of a config: task.data_seed and the sizes decide them
TRIED = 10  # problems that are made before any is taken, to see whether the config works
SECONDS = 120  # for these: some configs let a data set search for ever

Make = Callable[[int, int], Iterator[dict[str, Any]]]


def draw(name: str, config: Mapping[str, Any], train_size: int, test_size: int, data_seed: int) -> dict[str, Any]:
    """Return {"train", "test"}: problems of a data set, no question of which occurs twice.

    A problem is {"question", "truth"}; the truth is what the reward gets. The test problems are drawn first. A problem
    whose own answer gets less than full marks in our reward is left out. Some integrals are such: their own answer is
    Integral(...), which would be an answer to all of them. A data set without answers has only a scorer.

    Raises UserError: there is no such data set, the config is wrong, or it has too few different questions.
    """
    make = _maker(name, config)
    first = _first(make)
    score = scorer(name, json.dumps(config))

    def right(entry: Mapping[str, Any]) -> bool:
        answer = entry["answer"]
        return answer is None or score({"answer": answer, "entry": _truth(name, config, entry)["entry"]}) == 1.0

    if not any(map(right, first)):
        raise UserError(
            f"task.dataset must give its own answers full marks, but {name} gives {short(first[0]['answer'])} less "
            f"with task.dataset_config={dict(config)}; take another"
        )
    wanted = train_size + test_size
    found: dict[str, dict[str, Any]] = {}
    drawn = 0
    for number in range(ROUNDS):
        before = len(found)
        for entry in _entries(make, _seed(data_seed, number), wanted):
            drawn += 1
            question = str(entry["question"])
            if question not in found and right(entry):
                found[question] = {"question": question, "truth": _truth(name, config, entry)}
            if len(found) == wanted:
                problems = list(found.values())
                return {"train": problems[test_size:], "test": problems[:test_size]}
        if len(found) - before < FRUITLESS * wanted:
            break
    raise UserError(
        f"task.train_size and task.test_size must be at most {len(found)} together, the different problems among "
        f"{drawn} of task.dataset={name}, but are {wanted}; ask for fewer, or for others with task.dataset_config"
    )


def _maker(name: str, config: Mapping[str, Any]) -> Make:
    """Return a function that makes so many problems from a seed; UserError if the name or a key is wrong.

    The function raises UserError if the data set refuses the config.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    offered = sorted(set(DATASETS) - set(REFUSED))
    if name in REFUSED:
        raise UserError(
            f"task.dataset must be one whose scorer can be trusted, but is {name}: {REFUSED[name]}; take another"
        )
    if name not in offered:
        near = difflib.get_close_matches(name, offered, n=3, cutoff=0.5)
        raise UserError(
            f"task.dataset must be one of the {len(offered)} that reasoning-gym offers, but is {name}; "
            f"{'try ' + ' or '.join(near) if near else 'docs/tasks.md says how to list them'}"
        )
    keys = sorted({field.name for field in dataclasses.fields(DATASETS[name][1])} - set(OURS))
    if unknown := sorted(set(config) - set(keys)):
        raise UserError(
            f"task.dataset_config must have keys of {name}, which are {', '.join(keys)}, but has {', '.join(unknown)}; "
            "take one of them"
        )

    def make(seed: int, size: int) -> Iterator[dict[str, Any]]:
        try:
            made = reasoning_gym.create_dataset(name, seed=seed, size=size, **config)
            for place in range(size):  # some data sets depend on the size: one of another size would not begin alike
                yield made[place]
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"task.dataset_config must be one with which {name} makes problems, but is {dict(config)}: "
                f"{said or type(error).__name__}; change it, or leave it out"
            ) from error

    return make


def _first(make: Make) -> list[dict[str, Any]]:
    """Return TRIED problems; UserError if they can't be made or take too long."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"{TRIED} problems take more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        return list(_entries(make, 0, TRIED))
    finally:
        signal.alarm(0)


def _entries(make: Make, seed: int, size: int) -> Iterator[dict[str, Any]]:
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    return make(seed, size)


def _seed(data_seed: int, number: int) -> int:
    """Return the seed of a round. The data sets seed a problem with seed + place: seeds must not be neighbours."""
    return int.from_bytes(hashlib.sha256(f"{data_seed}/{number}".encode()).digest()[:4], "big") >> 2


def _truth(name: str, config: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, str]:
    """Return what the reward gets of a problem: texts, since problems of different kinds don't fit into one column."""
    kept = repr({key: _plain(value) for key, value in entry.items() if key != "question"})
    return {"dataset": name, "config": json.dumps(config, sort_keys=True), "entry": kept}


def _plain(value: Any) -> Any:
    """Return a value whose repr ast.literal_eval reads: tuples stay tuples, which JSON would not keep."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value)(map(_plain, value))
    if value is None or type(value) in (bool, int, float, complex, str):
        return value
    return value.item() if hasattr(value, "item") else str(value)  # a scalar of NumPy; a date


if __name__ == "__main__":
    user_code.answer(lambda request, say: draw(**request))
