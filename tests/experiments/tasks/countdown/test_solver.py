"""Test both solvers against all values that can be made, found by plain recursion over Fractions."""

from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.tasks.countdown.equation import evaluate, integers
from experiments.tasks.countdown.solver import equation_of, reachable, search, solve, ways_of


def makeable(numbers: tuple[Fraction, ...], whole: bool, max_value: int | None = None) -> set[Fraction]:
    """Return the values of all equations over the numbers; `whole`: each step gives a whole number 0..max_value."""
    if len(numbers) == 1:
        return set(numbers)
    values: set[Fraction] = set()
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i == j:
                continue
            rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
            for step in (a + b, a - b, a * b, *([a / b] if b else [])):
                if whole and (step < 0 or step.denominator > 1 or (max_value is not None and step > max_value)):
                    continue
                values |= makeable((*rest, step), whole, max_value)
    return values


def fractions(numbers: tuple[int, ...]) -> tuple[Fraction, ...]:
    return tuple(map(Fraction, numbers))


def searched(numbers: tuple[int, ...], target: int, max_value: int | None = None) -> int:
    return int(search(np.array([numbers]), np.array([target]), max_value)[0])


problems = st.lists(st.integers(0, 25), min_size=2, max_size=4).map(tuple)


@settings(max_examples=60)
@given(problems, st.sampled_from([None, 20, 99]))
def test_search_finds_exactly_what_whole_steps_can_make(numbers: tuple[int, ...], max_value: int | None) -> None:
    values = makeable(fractions(numbers), whole=True, max_value=max_value)
    targets = np.arange(1, 130)
    ways = search(np.tile(numbers, (len(targets), 1)), targets, max_value)
    assert {int(target) for target in targets[ways >= 0]} == {int(value) for value in values if 1 <= value < 130}
    for target, way in zip(targets.tolist(), ways.tolist(), strict=True):
        if way >= 0:
            text = equation_of(numbers, way)
            pair = evaluate(text)
            assert pair is not None and Fraction(*pair) == target
            assert integers(text) == sorted(numbers)
    table = reachable(np.array([numbers]), 1, 129, max_value)
    assert (table[0] == (ways >= 0)).all()


def test_search_gives_each_row_its_own_answer() -> None:
    """Rows are searched in chunks; a long batch must equal the rows one by one."""
    rng = np.random.default_rng(0)
    numbers, targets = rng.integers(1, 100, (1000, 4)), rng.integers(10, 101, 1000)
    ways = search(numbers, targets)
    assert 50 < (ways >= 0).sum() < 400
    for row in range(0, 1000, 97):
        assert searched(tuple(numbers[row]), targets[row]) == ways[row]


@pytest.mark.parametrize(
    ("numbers", "target"),
    [
        ((4097, 4097, 1, 1), 4097 * 4097),  # 2**24 and more: beyond 32-bit floats
        ((16_777_217, 1), 16_777_218),
        ((16_777_213, 5, 1), 16_777_217),
        ((50_000_000, 50_000_000), 2_500_000_000_000_000),
        ((99, 99, 99, 99), 99),
        ((0, 0, 7), 7),
    ],
)
def test_search_is_exact_for_large_numbers(numbers: tuple[int, ...], target: int) -> None:
    assert target in makeable(fractions(numbers), whole=True)
    assert searched(numbers, target) >= 0
    for other in (target - 1, target + 1):
        assert (searched(numbers, other) >= 0) == (other in makeable(fractions(numbers), whole=True))


def test_search_never_divides_by_zero_into_a_target() -> None:
    assert searched((0, 0), 5) == -1
    assert searched((3, 3, 0), 7) == -1


def test_search_takes_five_numbers_and_no_more() -> None:
    way = searched((1, 2, 3, 4, 5), 120)
    pair = evaluate(equation_of((1, 2, 3, 4, 5), way))
    assert pair is not None and pair[0] == 120 * pair[1]
    assert ways_of(5) == 112_500
    with pytest.raises(ValueError, match="must have 2 to 5 numbers, but has 6"):
        searched((1, 2, 3, 4, 5, 6), 7)


def test_every_way_is_an_equation_over_all_numbers() -> None:
    whole = [way for way in range(ways_of(3)) if way // 15 < 3 and way % 15 % 5 < 3]  # those without division
    texts = {equation_of((60, 12, 3), way) for way in whole}
    assert len(texts) == len(whole) == 27
    assert all(integers(text) == [3, 12, 60] for text in texts)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 13), min_size=1, max_size=3).map(tuple))
def test_solve_finds_exactly_what_rationals_can_make(numbers: tuple[int, ...]) -> None:
    values = makeable(fractions(numbers), whole=False)
    for target in range(-30, 60):
        text = solve(numbers, target)
        # A minus before the whole equation makes the opposite of every value.
        assert (text is not None) == (target in values or -target in values)
        if text is not None:
            pair = evaluate(text)
            assert pair is not None and Fraction(*pair) == target
            assert integers(text) == sorted(numbers)


@pytest.mark.parametrize(
    ("numbers", "target"),
    [((3, 3, 8, 8), 24), ((1, 3, 4, 6), 24), ((1, 5, 5, 5), 24), ((44, 19, 35), 98), ((3, 7, 12), 63)],
)
def test_solve_known_problems(numbers: tuple[int, ...], target: int) -> None:
    text = solve(numbers, target)
    assert text is not None
    pair = evaluate(text)
    assert pair is not None and Fraction(*pair) == target


def test_some_problems_need_fractions_and_some_have_no_solution() -> None:
    assert searched((3, 3, 8, 8), 24) == -1 and solve((3, 3, 8, 8), 24) is not None
    assert solve((1, 1, 1, 1), 24) is None
    assert solve((), 1) is None


def test_solve_agrees_with_search_on_all_small_problems() -> None:
    for numbers in combinations_with_replacement(range(1, 7), 3):
        for target in (11, 24):
            if searched(numbers, target) >= 0:
                assert solve(numbers, target) is not None
