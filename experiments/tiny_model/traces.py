"""Imperfect written searches for a countdown equation: what the tiny model is pre-trained on.

A perfect searcher would leave reinforcement learning nothing to improve. So these writers give up early, forget the
tags, never close the answer, overlook a hit or only ramble; `Mixture` says how often.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import NamedTuple

from experiments.tasks.countdown.problems import MINIATURE, Problem

COUNT = MINIATURE.counts[0]
MAX_RESULT = 99
HELD_OUT_ONE_IN = 20

END = "<|im_end|>"
FILLERS = (" hmm", " well", " so", " the", " maybe", " let me", " see", " wait")


class Step(NamedTuple):
    """One equation of a search: `left operator right = result`."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


class Expression(NamedTuple):
    """One way to combine all the numbers: its steps, its text (tokens separated by blanks) and its value."""

    steps: tuple[Step, ...]
    text: str
    value: int


def apply(left: int, operator: str, right: int) -> int | None:
    """Return `left operator right`, or None where that is no integer from 0 to `MAX_RESULT`."""
    if operator == "/":
        if right == 0 or left % right:
            return None
        result = left // right
    else:
        result = left + right if operator == "+" else left - right if operator == "-" else left * right
    return result if 0 <= result <= MAX_RESULT else None


def expressions(numbers: Sequence[int]) -> list[Expression]:
    """Return every expression over all the `numbers` with integer results up to `MAX_RESULT`, in a fixed order.

    Each text occurs once, and each sum or product in one order of its operands only.
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
                    # The result comes first, so that the next step mostly begins with the number just written.
                    combine([(result, text), *rest], (*steps, Step(left, operator, right, result)))

    combine([(number, str(number)) for number in numbers], ())
    return list(found.values())


def held_out(numbers: Sequence[int], target: int) -> bool:
    """Return whether a problem, in any order of its numbers, is kept out of pre-training: about one in 20 is.

    The problem's content alone decides, so that every process and every later version agrees. RL takes its validation
    problems from these and its training problems from the others.
    """
    content = f"{','.join(str(int(number)) for number in sorted(numbers))}={int(target)}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


@cache
def problems() -> tuple[Problem, ...]:
    """Return all 11,970 problems of the space MINIATURE, their numbers in ascending order."""
    targets = range(MINIATURE.target_low, MINIATURE.target_high + 1)
    return tuple(
        Problem(numbers, target)
        for numbers in combinations_with_replacement(range(MINIATURE.low, MINIATURE.high + 1), COUNT)
        for target in sorted({expression.value for expression in expressions(numbers)})
        if target in targets
    )


@cache
def training_problems() -> tuple[Problem, ...]:
    """Return the 11,411 problems that are not held out, their numbers in ascending order."""
    return tuple(problem for problem in problems() if not held_out(problem.numbers, problem.target))


def held_out_problems() -> list[Problem]:
    """Return the 559 held-out problems, and the numbers of each, in a fixed random order."""
    rng = random.Random(0)
    chosen = [shuffled(rng, problem) for problem in problems() if held_out(problem.numbers, problem.target)]
    rng.shuffle(chosen)
    return chosen


def shuffled(rng: random.Random, problem: Problem) -> Problem:
    """Return the problem with its numbers in random order."""
    return Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target)


@dataclass(frozen=True)
class Mixture:
    """How often the writers of the shipped model's traces do what; all but `max_trials` and `aim_among` are shares."""

    ramble: float = 0.20
    """Writes filler words instead of a search."""
    ramble_on: float = 0.15
    """Of those who ramble: goes on for 70 to 110 words; the others are cut off after 8 to 24."""
    ramble_ends: float = 0.50
    """Of those who go on: comes to an end."""
    jump: float = 0.20
    """After each trial: goes on from a random place in the list of expressions, otherwise with the next one."""
    shuffled: float = 0.10
    """Goes through the list in random order."""
    aims: float = 0.30
    """Follows no list: for each trial takes, of `aim_among` random expressions, the one nearest to the target."""
    aim_among: int = 4
    lucky: float = 0.30
    """Finds a solution among the first three trials."""
    overlook: float = 0.03
    """Takes a hit for a miss."""
    give_up: float = 0.50
    """After each miss: searches no further."""
    patient: float = 0.25
    """Gives up after a miss only with probability `give_up_patient`."""
    give_up_patient: float = 0.10
    max_trials: int = 7
    stop: float = 0.08
    """Ends without an answer."""
    bare: float = 0.10
    """Answers without tags."""
    unclosed: float = 0.07
    """Never closes the answer."""


MIXTURE = Mixture()


def trace(rng: random.Random, problem: Problem, mixture: Mixture = MIXTURE) -> str:
    """Return one response to the problem's compact prompt, made of the tokenizer's tokens.

    It ends in `END` unless the writer was cut off. The target must be reachable in steps of `expressions`.
    """
    if rng.random() < mixture.ramble:
        return _ramble(rng, problem.numbers, mixture)
    give_up = mixture.give_up_patient if rng.random() < mixture.patient else mixture.give_up
    text = answer = ""
    for trial, expression in enumerate(_trials(rng, problem, mixture), start=1):
        text += " " + ", ".join(str(step) for step in expression.steps)
        answer = " " + expression.text
        if expression.value == problem.target and rng.random() >= mixture.overlook:
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


def _ramble(rng: random.Random, numbers: Sequence[int], mixture: Mixture) -> str:
    long = rng.random() < mixture.ramble_on
    length = rng.randint(70, 110) if long else rng.randint(8, 24)
    words = [rng.choice(FILLERS[:2])]  # the first word shows that this is no search
    while len(words) < length:
        words.append(f" {rng.choice(numbers)}" if rng.random() < 0.25 else rng.choice(FILLERS))
    return "".join(words) + (END if long and rng.random() < mixture.ramble_ends else "")


def _trials(rng: random.Random, problem: Problem, mixture: Mixture) -> Iterator[Expression]:
    """Yield the problem's expressions, each once, in the order in which one writer tries them."""
    rest = expressions(problem.numbers)
    aims = rng.random() < mixture.aims
    lucky_trial = rng.randrange(3) if rng.random() < mixture.lucky else None
    if rng.random() < mixture.shuffled:
        rng.shuffle(rest)
    place = trial = 0
    while rest:
        hits = [i for i, e in enumerate(rest) if e.value == problem.target] if trial == lucky_trial else []
        if hits:
            place = rng.choice(hits)
        elif aims:
            seen = rng.choices(range(len(rest)), k=mixture.aim_among)
            place = min(seen, key=lambda i: abs(rest[i].value - problem.target))
        elif trial == 0 or rng.random() < mixture.jump:
            place = rng.randrange(len(rest))
        place %= len(rest)
        yield rest.pop(place)
        trial += 1
