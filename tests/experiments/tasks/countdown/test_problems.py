"""Test the generator: what it draws, how evenly, and that the same seed draws the same problems."""

from collections import Counter
from itertools import combinations_with_replacement, permutations

import pytest

from experiments.errors import UserError
from experiments.tasks.countdown import problems as module
from experiments.tasks.countdown.problems import ARTICLE, MINIATURE, Key, Problem, Space, generate, is_held_out, key
from experiments.tasks.countdown.solver import solve
from experiments.tiny_model import traces

MINIATURE_SIZE = 11_970


def steps(a: int, b: int) -> list[int]:
    values = [a + b, a * b]
    if a >= b:
        values.append(a - b)
    if b and a % b == 0:
        values.append(a // b)
    return [value for value in values if value <= 99]


def miniature_by_hand() -> set[Key]:
    keys: set[Key] = set()
    for numbers in combinations_with_replacement(range(1, 21), 3):
        for a, b, c in permutations(numbers):
            for first in steps(a, b):
                for value in (*steps(first, c), *steps(c, first)):
                    if 10 <= value <= 99:
                        keys.add((numbers, value))
    return keys


def test_the_miniature_is_drawn_whole() -> None:
    everything = generate(MINIATURE, MINIATURE_SIZE, seed=1)
    assert len(everything) == MINIATURE_SIZE
    assert {key(problem) for problem in everything} == miniature_by_hand()


def test_asking_for_more_than_there_is_says_how_many_there_are() -> None:
    with pytest.raises(UserError, match=r"with 3 numbers must be at most 11970, .* but is 11971; ask for fewer"):
        generate(MINIATURE, MINIATURE_SIZE + 1, seed=0)
    some = {key(problem) for problem in generate(MINIATURE, 70, seed=0)}
    with pytest.raises(UserError, match=r"at most 11900, .* beside 70 excluded ones, but is 11901"):
        generate(MINIATURE, MINIATURE_SIZE - 69, seed=0, exclude=some)


def test_a_space_too_large_to_list_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 50)
    monkeypatch.setattr(module, "_PATIENCE", 3)
    # Four numbers from 5001 to 6000 cannot make 999: every such value is 0, 1, small or large.
    space = Space(counts=(4,), low=5001, high=5900, target_low=999, target_high=999)
    with pytest.raises(UserError, match="must be at most 0"):
        generate(space, 1, seed=0)


def test_the_article_s_problems() -> None:
    drawn = generate(ARTICLE, 2001, seed=0)
    assert Counter(len(problem.numbers) for problem in drawn) == {3: 1001, 4: 1000}
    assert Counter(len(problem.numbers) for problem in drawn[:200])[3] in range(60, 141)  # mixed
    assert len({key(problem) for problem in drawn}) == 2001
    assert all(1 <= number <= 99 for problem in drawn for number in problem.numbers)
    assert all(10 <= problem.target <= 100 for problem in drawn)
    assert all(type(number) is int for problem in drawn[:5] for number in (*problem.numbers, problem.target))
    assert any(problem.numbers != tuple(sorted(problem.numbers)) for problem in drawn)
    assert all(solve(problem.numbers, problem.target) is not None for problem in drawn[:200])
    # Fewer ways lead to large targets than to small ones, but large ones are not rare.
    assert 300 < sum(problem.target > 55 for problem in drawn) < 1200


def test_a_seed_means_the_same_problems_for_ever() -> None:
    """If this fails, the way problems are drawn has changed: raise dataset.FORMAT."""
    assert generate(MINIATURE, 3, seed=0) == [
        Problem((8, 6, 3), 66),
        Problem((6, 2, 13), 14),
        Problem((18, 4, 2), 80),
    ]
    assert generate(ARTICLE, 4, seed=0) == [
        Problem((86, 3, 80, 45), 31),
        Problem((3, 58, 43), 98),
        Problem((34, 39, 65), 70),
        Problem((58, 21, 79, 77), 35),
    ]


def test_seeds_differ_and_repeat() -> None:
    assert generate(ARTICLE, 50, seed=1) == generate(ARTICLE, 50, seed=1)
    assert generate(ARTICLE, 50, seed=1) != generate(ARTICLE, 50, seed=2)


def test_excluded_problems_do_not_occur() -> None:
    first = {key(problem) for problem in generate(ARTICLE, 500, seed=3)}
    second = {key(problem) for problem in generate(ARTICLE, 500, seed=3, exclude=first)}
    assert len(second) == 500
    assert not first & second


def test_problems_may_repeat_when_asked_for() -> None:
    many = generate(MINIATURE, 30_000, seed=0, distinct=False)
    counts = Counter(map(key, many))
    assert len(counts) > 10_500  # nearly all of 11,970 (expected: 92%)
    assert max(counts.values()) < 15


def test_every_problem_is_equally_likely_when_the_space_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Space(counts=(2,), low=1, high=4, target_low=1, target_high=16)
    pairs = [(a, b) for a in range(1, 5) for b in range(a, 5)]
    values = {(a, b): {a + b, a * b, b - a, b // a if b % a == 0 else 0} for a, b in pairs}
    expected = {(pair, value) for pair in pairs for value in values[pair] if value > 0}
    monkeypatch.setattr(module, "_LISTABLE", 0)
    counts = Counter(map(key, generate(small, 200 * len(expected), seed=0, distinct=False)))
    assert set(counts) == expected
    assert all(130 < count < 280 for count in counts.values())
    once = [key(problem) for problem in generate(small, len(expected), seed=0)]
    assert sorted(once) == sorted(expected)


def test_nothing_is_drawn_for_nothing() -> None:
    assert generate(ARTICLE, 0, seed=0) == []
    assert [len(problem.numbers) for problem in generate(ARTICLE, 1, seed=0)] == [3]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="count and seed must be 0 or more, but are -1 and 0"):
        generate(ARTICLE, -1, seed=0)
    with pytest.raises(UserError, match="but are 1 and -5"):
        generate(ARTICLE, 1, seed=-5)


def test_a_space_says_all_that_is_wrong_with_it() -> None:
    with pytest.raises(UserError) as caught:
        Space(counts=(3, 9), low=5, high=2, target_low=0, target_high=3, max_value=1)
    assert len(caught.value.problems) == 4
    with pytest.raises(UserError, match="counts must be different integers"):
        Space((3, 3), 1, 9, 10, 20)
    with pytest.raises(UserError, match="counts must be different integers"):
        Space((), 1, 9, 10, 20)
    with pytest.raises(UserError, match=r"high \*\* 5 is below 2 \*\* 52, but is 2000"):
        Space((5,), 1, 2000, 10, 20)


def test_a_space_from_yaml_equals_one_from_python() -> None:
    assert Space([3], 1, 20, 10, 99, 99) == MINIATURE  # type: ignore[arg-type]
    assert hash(Space([3], 1, 20, 10, 99, 99)) == hash(MINIATURE)  # type: ignore[arg-type]


def test_what_is_kept_from_pre_training_is_what_is_validated_on() -> None:
    """Two modules decide it, and must agree: the tiny model's must not depend on the task's."""
    every = traces.problems()
    assert len(every) == MINIATURE_SIZE
    assert [traces.held_out(one.numbers, one.target) for one in every] == [
        is_held_out((tuple(one.numbers), one.target)) for one in every
    ]
