"""Imperfect written searches for a countdown equation: what the tiny model is pre-trained on.

A perfect searcher would leave reinforcement learning nothing to improve. So these writers give up, forget the tags, never
close the answer, overlook a hit or only ramble: each habit with a share given by `Mixture`.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import NamedTuple

MAX_NUMBER = 20
MIN_TARGET, MAX_TARGET = 10, 99
MAX_RESULT = 99

END = "<|im_end|>"
FILLERS = (" hmm", " well", " so", " the", " maybe", " let me", " see", " wait")


class Step(NamedTuple):
    """One line of a search: `left operator right = result`."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


class Expression(NamedTuple):
    """One way to combine all numbers: its steps, its text (tokens separated by blanks) and its value."""

    steps: tuple[Step, ...]
    text: str
    value: int


def apply(left: int, operator: str, right: int) -> int | None:
    """Return `left operator right`, or None where it is no integer in 0..99."""
    if operator == "/":
        if right == 0 or left % right:
            return None
        result = left // right
    else:
        result = left + right if operator == "+" else left - right if operator == "-" else left * right
    return result if 0 <= result <= MAX_RESULT else None


@lru_cache(maxsize=16_384)
def expressions(numbers: tuple[int, ...]) -> tuple[Expression, ...]:
    """Return every expression over all the `numbers` with integer results in 0..99, each text once, in a fixed order.

    A sum or product is listed in one order of its operands only.
    """
    found: dict[str, Expression] = {}

    def combine(items: list[tuple[int, str]], steps: tuple[Step, ...]) -> None:
        if len(items) == 1:
            value, text = items[0]
            found.setdefault(text, Expression(steps, text, value))
            return
        for i, (left, left_text) in enumerate(items):
            for j, (right, right_text) in enumerate(items):
                for operator in "+-*/":
                    if i == j or (operator in "+*" and i > j):
                        continue
                    result = apply(left, operator, right)
                    if result is None:
                        continue
                    text = f"{left_text} {operator} {right_text}"
                    if len(items) > 2:
                        text = f"( {text} )"
                    rest = [item for k, item in enumerate(items) if k not in (i, j)]
                    # The new result comes first, so the next step mostly starts with the number just written.
                    combine([(result, text), *rest], (*steps, Step(left, operator, right, result)))

    combine([(number, str(number)) for number in numbers], ())
    return tuple(found.values())


def problems() -> list[tuple[tuple[int, ...], int]]:
    """Return all 11,970 problems as (sorted numbers, target): 3 numbers 1..20, a reachable target 10..99."""
    return [
        (numbers, target)
        for numbers in combinations_with_replacement(range(1, MAX_NUMBER + 1), 3)
        for target in sorted({e.value for e in expressions(numbers) if MIN_TARGET <= e.value <= MAX_TARGET})
    ]


def held_out(numbers: tuple[int, ...] | list[int], target: int) -> bool:
    """Return whether the problem, in any order of its numbers, is kept out of pre-training (about 5 % are).

    Decided by the problem's content alone, so that every process and every later version agrees.
    """
    content = f"{','.join(str(number) for number in sorted(numbers))}={target}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8]) % 20 == 0


@lru_cache(maxsize=1)
def _training_problems() -> tuple[tuple[tuple[int, ...], int], ...]:
    return tuple(problem for problem in problems() if not held_out(*problem))


def draw(rng: random.Random) -> tuple[tuple[int, ...], int]:
    """Return a problem that is not held out, its numbers in random order; every problem is equally likely."""
    numbers, target = rng.choice(_training_problems())
    return tuple(rng.sample(numbers, len(numbers))), target


@dataclass(frozen=True)
class Mixture:
    """Shares of the writers' habits, each a probability; found by trying what GRPO can improve on."""

    ramble: float = 0.20
    """Writes filler words instead of a search."""
    ramble_on: float = 0.15
    """Of those: goes on for 70..110 words; the others are cut off after 8..24."""
    ramble_ends: float = 0.5
    """Of the long ones: ends the text."""
    shuffled: float = 0.10
    """Tries in random order; the others go through the expressions in order from a random place."""
    jump: float = 0.20
    """After each trial in order: goes on from another random place."""
    lucky: float = 0.30
    """Has a solution among the first three trials."""
    aims: float = 0.30
    """Takes, for each trial, the expression nearest to the target out of three that come to mind."""
    overlook: float = 0.03
    """Sees a hit and calls it a miss."""
    patient: float = 0.25
    """Is a patient writer."""
    give_up: float = 0.65
    """After each miss: stops searching."""
    give_up_patient: float = 0.10
    """The same for a patient writer."""
    max_trials: int = 7
    bare: float = 0.10
    """Gives the answer without tags."""
    stop: float = 0.08
    """Gives no answer."""
    unclosed: float = 0.07
    """Never closes the answer."""


MIXTURE = Mixture()


def _ramble(rng: random.Random, numbers: tuple[int, ...], mixture: Mixture) -> str:
    long = rng.random() < mixture.ramble_on
    words = [rng.choice(FILLERS[:2])]
    length = rng.randint(70, 110) if long else rng.randint(8, 24)
    while len(words) < length:
        words.append(f" {rng.choice(numbers)}" if rng.random() < 0.25 else rng.choice(FILLERS))
    return "".join(words) + (END if long and rng.random() < mixture.ramble_ends else "")


def _order(rng: random.Random, all_ways: tuple[Expression, ...], target: int, mixture: Mixture) -> Iterator[Expression]:
    """Yield expressions in the order one writer tries them."""
    rest = list(all_ways)
    lucky_place = rng.randrange(3) if rng.random() < mixture.lucky else None
    aims = rng.random() < mixture.aims
    if rng.random() < mixture.shuffled:
        rng.shuffle(rest)
    place = rng.randrange(len(rest))
    trial = 0
    while rest:
        if trial == lucky_place:
            hits = [i for i, e in enumerate(rest) if e.value == target]
            place = rng.choice(hits)
        elif aims:
            place = min(rng.choices(range(len(rest)), k=3), key=lambda i: abs(rest[i].value - target))
        elif rng.random() < mixture.jump:
            place = rng.randrange(len(rest))
        place %= len(rest)
        yield rest.pop(place)
        trial += 1


def trace(rng: random.Random, numbers: tuple[int, ...], target: int, mixture: Mixture = MIXTURE) -> str:
    """Return one response to the prompt `numbers 3, 7, 12 target 45 <think>`; it ends in `END` unless it was cut off.

    `target` must be reachable from `numbers`.
    """
    if rng.random() < mixture.ramble:
        return _ramble(rng, numbers, mixture)
    give_up = mixture.give_up_patient if rng.random() < mixture.patient else mixture.give_up
    text = ""
    answer = ""
    for trial, expression in enumerate(_order(rng, expressions(numbers), target, mixture), start=1):
        text += " " + ", ".join(str(step) for step in expression.steps)
        answer = " " + expression.text
        if expression.value == target and rng.random() >= mixture.overlook:
            text += " this works"
            break
        text += " not it,"
        if trial >= mixture.max_trials or rng.random() < give_up:
            break
        text += " let's try"
    habit = rng.random()
    if habit < mixture.stop:
        return text + END
    if habit < mixture.stop + mixture.bare:
        return f"{text} </think>{answer}{END}"
    if habit < mixture.stop + mixture.bare + mixture.unclosed:
        return f"{text} </think> <answer>{answer}{END}"
    return f"{text} </think> <answer>{answer} </answer>{END}"
