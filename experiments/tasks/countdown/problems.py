"""Countdown problems: numbers and a target that they can make, drawn from a space of problems."""

import hashlib
import random
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb

import numpy as np

from experiments.errors import UserError
from experiments.tasks.countdown.equation import evaluate
from experiments.tasks.countdown.solver import MAX_COUNT, Ints, equation_of, reachable, search, solve, ways_of

__all__ = ["ARTICLE", "MINIATURE", "Key", "Problem", "Space", "generate", "key", "solve"]

Key = tuple[tuple[int, ...], int]

_BATCH = 20_000  # problems drawn at a time; with another number a seed would give other problems
_PATIENCE = 100  # a space too large to list counts as used up after so many batches without a new problem
_LISTABLE = 20_000_000  # a space with at most so many ways to try is listed whole, in less than a second


@dataclass(frozen=True)
class Problem:
    """Make `target` from `numbers` with + - * /, each number exactly once."""

    numbers: tuple[int, ...]
    target: int


@dataclass(frozen=True)
class Space:
    """A set of problems: all that can be solved in steps which give whole numbers >= 0.

    counts: how many numbers a problem has, each equally often. low, high: the range of the numbers. target_low,
    target_high: the range of the target. max_value: the largest result of a step; None: no bound.
    """

    counts: tuple[int, ...]
    low: int
    high: int
    target_low: int
    target_high: int
    max_value: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError, which names all wrong values at once, if they make no space."""
        object.__setattr__(self, "counts", tuple(self.counts))  # a list when it comes from YAML
        problems = []
        if not self.counts or len(set(self.counts)) < len(self.counts):
            problems.append(f"counts must be different integers, but is {list(self.counts)}; give for instance [3, 4]")
        if not all(2 <= count <= MAX_COUNT for count in self.counts):
            problems.append(f"counts must be from 2 to {MAX_COUNT}, but is {list(self.counts)}; leave out the others")
        if not 0 <= self.low <= self.high:
            problems.append(f"low and high must be 0 <= low <= high, but are {self.low} and {self.high}; change one")
        if not 1 <= self.target_low <= self.target_high:
            problems.append(
                "target_low and target_high must be 1 <= target_low <= target_high, but are "
                f"{self.target_low} and {self.target_high}; change one"
            )
        if self.max_value is not None and self.max_value < self.target_high:
            problems.append(
                f"max_value must be at least target_high, {self.target_high}, but is {self.max_value}; raise it or "
                "lower target_high"
            )
        if max(self.high, 2) ** max(self.counts, default=0) >= 1 << 52:
            problems.append(
                f"high must be so small that high ** {max(self.counts)} is below 2 ** 52, but is {self.high}; lower it"
            )
        if problems:
            raise UserError(*problems)


ARTICLE = Space(counts=(3, 4), low=1, high=99, target_low=10, target_high=100)
MINIATURE = Space(counts=(3,), low=1, high=20, target_low=10, target_high=99, max_value=99)


HELD_OUT_ONE_IN = 20


def key(problem: Problem) -> Key:
    """(sorted numbers, target): equal for problems that differ only in the order of their numbers."""
    return tuple(sorted(problem.numbers)), problem.target


def is_held_out(name: Key) -> bool:
    """Whether a problem is kept for validation. One in 20 is; it is never trained on, whatever the seed or the sizes.

    The problem's content alone decides, so that data sets, the tiny model's pre-training and every later version agree.
    """
    numbers, target = name
    content = f"{','.join(str(int(number)) for number in sorted(numbers))}={int(target)}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def generate(
    space: Space,
    count: int,
    seed: int,
    exclude: Set[Key] = frozenset(),
    distinct: bool = True,
    held_out: bool | None = None,
) -> list[Problem]:
    """Draw solvable problems, deterministically from the arguments.

    Problems of the space with the same count of numbers are equally likely, up to the order of the numbers, which is
    random. `search` has solved each problem, and the reward's own arithmetic has checked its solution.

    Args:
        count: how many problems; 490,364 of ARTICLE take about half a minute.
        seed: >= 0.
        exclude: keys that must not occur.
        distinct: no two problems have the same key.
        held_out: True for held-out problems only, False for the others only, None for both.

    Raises:
        UserError: the space has fewer problems that are distinct and not excluded; count or seed is negative.
    """
    if count < 0 or seed < 0:
        raise UserError(f"count and seed must be 0 or more, but are {count} and {seed}; raise the negative one")
    problems: list[Problem] = []
    for place, size in enumerate(space.counts):
        share = count // len(space.counts) + (place < count % len(space.counts))
        problems += _draw(space, size, share, np.random.default_rng((seed, size)), exclude, distinct, held_out)
    random.Random(seed).shuffle(problems)  # mix the counts of numbers
    return problems


def _draw(
    space: Space,
    size: int,
    share: int,
    rng: np.random.Generator,
    exclude: Set[Key],
    distinct: bool,
    held_out: bool | None,
) -> list[Problem]:
    """Return `share` problems with `size` numbers."""
    problems: list[Problem] = []
    if share == 0:
        return problems
    seen: set[Key] = set()
    fruitless = 0
    for numbers, targets in _candidates(space, size, rng, distinct):
        before = len(problems)
        ways = search(numbers, targets, space.max_value)
        solved = ways >= 0
        orders = rng.permuted(np.tile(np.arange(size), (len(targets), 1)), axis=1)
        shuffled = np.take_along_axis(numbers, orders, axis=1)
        columns = (numbers[solved], shuffled[solved], targets[solved], ways[solved])
        for row, mixed, target, way in zip(*(column.tolist() for column in columns), strict=True):
            name = (tuple(row), target)
            if name in exclude or name in seen:
                continue
            if held_out is not None and is_held_out(name) != held_out:
                continue
            if distinct:
                seen.add(name)
            _verify(equation_of(row, way), target)
            problems.append(Problem(tuple(mixed), target))
            if len(problems) == share:
                return problems
        fruitless = 0 if len(problems) > before else fruitless + 1
        if fruitless == _PATIENCE:
            break
    raise UserError(
        f"the number of problems with {size} numbers must be at most {len(problems)}, all that {space} has beside "
        f"{len(exclude)} excluded ones, but is {share}; ask for fewer or widen the space"
    )


def _verify(solution: str, target: int) -> None:
    value = evaluate(solution)
    if value is None or value[0] != target * value[1]:
        raise AssertionError(f"the solver made {solution} for the target {target}, but its value is {value}")


def _candidates(space: Space, size: int, rng: np.random.Generator, distinct: bool) -> Iterator[tuple[Ints, Ints]]:
    """Yield batches of (sorted numbers, targets); each problem of the space is equally likely, some may be unsolvable.

    A small space is listed whole: if `distinct`, each problem comes once in random order; else they are drawn for ever.
    """
    listed = comb(space.high - space.low + size, size) * ways_of(size) <= _LISTABLE
    if listed:
        numbers, targets = _everything(space, size)
        while len(targets):
            deal = rng.permutation(len(targets)) if distinct else rng.integers(len(targets), size=_BATCH)
            for start in range(0, len(deal), _BATCH):
                part = deal[start : start + _BATCH]
                yield numbers[part], targets[part]
            if distinct:
                return
        return
    span = space.high - space.low + 1
    while True:
        # Choosing different places among span + size - 1 and closing the gaps makes every multiset equally likely.
        places = np.sort(rng.integers(span + size - 1, size=(_BATCH, size)), axis=1)
        places = places[(np.diff(places, axis=1) > 0).all(axis=1)]
        targets = rng.integers(space.target_low, space.target_high + 1, size=len(places))
        yield space.low + places - np.arange(size), targets


def _everything(space: Space, size: int) -> tuple[Ints, Ints]:
    numbers = np.array(list(combinations_with_replacement(range(space.low, space.high + 1), size)), dtype=np.int64)
    rows, columns = np.nonzero(reachable(numbers, space.target_low, space.target_high, space.max_value))
    return numbers[rows], space.target_low + columns
