"""Test the pre-training traces: true equations, imperfect habits, and no held-out problem."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.tasks.countdown import equation
from experiments.tasks.countdown.problems import MINIATURE, Problem, generate, key
from experiments.tasks.countdown.reward import compute_score
from experiments.tiny_model import traces

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
SEARCHER = replace(traces.MIXTURE, ramble=0.0, stop=0.0, bare=0.0, unclosed=0.0, overlook=0.0)

GOLDEN_TARGETS = [59, 74, 88]
GOLDEN_PROBLEMS = [((11, 11, 5), 27), ((12, 6, 2), 18), ((13, 15, 12), 10)]
GOLDEN_TRACES = [
    " 3 + 12 = 15, 15 - 7 = 8 not it, let's try 12 - 3 = 9, 9 * 7 = 63 this works </think> <answer> ( 12 - 3 ) * 7 "
    "</answer><|im_end|>",
    " 12 / 3 = 4, 4 * 7 = 28 not it, </think> <answer> ( 12 / 3 ) * 7 </answer><|im_end|>",
]

problem_places = st.integers(0, 11_410)
seeds = st.integers(0, 2**32)


def value_of(left: int, operator: str, right: int) -> Fraction:
    return {
        "+": lambda: Fraction(left + right),
        "-": lambda: Fraction(left - right),
        "*": lambda: Fraction(left * right),
        "/": lambda: Fraction(left, right),
    }[operator]()


def scores(response: str, problem: Problem) -> dict[str, float]:
    truth = {"target": problem.target, "numbers": list(problem.numbers)}
    return compute_score("countdown", response.removesuffix(traces.END), truth)


@settings(max_examples=300, deadline=None)
@given(seed=seeds, place=problem_places)
def test_every_written_equation_is_true_and_in_range(seed: int, place: int):
    problem = traces.training_problems()[place]
    text = traces.trace(random.Random(seed), problem)
    for left, operator, right, result in STEP.findall(text):
        assert value_of(int(left), operator, int(right)) == int(result)
        assert 0 <= int(result) <= 99


@settings(max_examples=300, deadline=None)
@given(seed=seeds, place=problem_places)
def test_a_careful_writer_is_right_exactly_when_he_says_so(seed: int, place: int):
    problem = traces.training_problems()[place]
    text = traces.trace(random.Random(seed), problem, SEARCHER)
    assert text.endswith(" </answer><|im_end|>")
    assert scores(text, problem)["format"] == 1.0
    assert scores(text, problem)["acc"] == float(" this works" in text)
    assert text.count(" not it,") + text.count(" this works") <= SEARCHER.max_trials


@settings(max_examples=100, deadline=None)
@given(seed=seeds, place=problem_places)
def test_no_writer_tries_an_expression_twice(seed: int, place: int):
    problem = traces.training_problems()[place]
    mixture = replace(SEARCHER, give_up=0.0, give_up_patient=0.0, overlook=1.0, max_trials=1000)
    text = traces.trace(random.Random(seed), problem, mixture)
    trials = re.split(r" not it,(?: let's try)?", text.partition(" </think>")[0])[:-1]
    # Different expressions may have the same steps, and then the same text: so compare sorted lists, not sets.
    assert len(trials) == len(traces.expressions(problem.numbers))
    assert sorted(trials) == sorted(
        " " + ", ".join(map(str, expression.steps)) for expression in traces.expressions(problem.numbers)
    )


@given(numbers=st.lists(st.integers(1, 20), min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_expressions_have_their_value_and_use_each_number_once(numbers: list[int]):
    texts = set()
    for expression in traces.expressions(numbers):
        top, bottom = equation.evaluate(expression.text)
        assert Fraction(top, bottom) == expression.value
        assert sorted(map(int, re.findall(r"\d+", expression.text))) == sorted(numbers)
        assert expression.steps[-1].result == expression.value
        texts.add(expression.text)
    assert len(texts) == len(traces.expressions(numbers))


def test_the_problems_are_those_of_the_countdown_task():
    problems = traces.problems()
    assert len(problems) == 11_970
    assert {key(problem) for problem in problems} == {key(problem) for problem in generate(MINIATURE, 11_970, seed=0)}


def test_held_out_problems_are_disjoint_from_pre_training_in_any_order():
    held_out = traces.held_out_problems()
    trained = {key(problem) for problem in traces.training_problems()}
    assert len({key(problem) for problem in held_out}) == len(held_out) == 559
    assert trained.isdisjoint(key(problem) for problem in held_out)
    assert len(trained) + len(held_out) == len(traces.problems())
    assert any(list(problem.numbers) != sorted(problem.numbers) for problem in held_out)


@given(numbers=st.permutations([2, 13, 17]), target=st.integers(10, 99))
def test_held_out_looks_at_the_content_alone(numbers: list[int], target: int):
    assert traces.held_out(numbers, target) == traces.held_out((2, 13, 17), target)


def test_what_is_held_out_never_changes():
    # Recorded once: after a change, new validation sets would contain problems that old runs were trained on.
    chosen = [target for target in range(10, 100) if traces.held_out((3, 7, 12), target)]
    assert chosen == GOLDEN_TARGETS
    assert [(problem.numbers, problem.target) for problem in traces.held_out_problems()[:3]] == GOLDEN_PROBLEMS


def test_a_seed_means_the_same_traces_for_ever():
    rng = random.Random(1)
    problem = Problem((7, 3, 12), 63)
    assert [traces.trace(rng, problem, SEARCHER) for _ in range(2)] == GOLDEN_TRACES


@pytest.mark.parametrize(
    ("habit", "sign"),
    [
        ({"ramble": 1.0, "ramble_on": 0.0}, lambda text: not text.endswith(traces.END) and "=" not in text),
        ({"ramble": 1.0, "ramble_on": 1.0, "ramble_ends": 1.0}, lambda text: text.endswith(traces.END)),
        ({"ramble": 0.0, "stop": 1.0}, lambda text: "</think>" not in text and text.endswith(traces.END)),
        ({"ramble": 0.0, "stop": 0.0, "bare": 1.0}, lambda text: "</think>" in text and "answer" not in text),
        ({"ramble": 0.0, "stop": 0.0, "bare": 0.0, "unclosed": 1.0}, lambda text: "/answer" not in text),
        ({"ramble": 0.0, "lucky": 1.0, "give_up": 0.0, "overlook": 0.0}, lambda text: text.count("not it") <= 3),
    ],
)
def test_each_habit_shows(habit: dict[str, float], sign):
    rng = random.Random(1)
    mixture = replace(traces.MIXTURE, patient=0.0, **habit)
    for problem in traces.held_out_problems()[:100]:
        text = traces.trace(rng, problem, mixture)
        assert sign(text), text


def test_most_traces_leave_something_to_learn():
    rng = random.Random(2)
    results = [scores(traces.trace(rng, problem), problem) for problem in rng.sample(traces.problems(), 2000)]
    assert 0.15 < sum(result["acc"] for result in results) / 2000 < 0.30
    assert 0.55 < sum(result["format"] for result in results) / 2000 < 0.65


def test_traces_need_no_torch():
    code = (
        "import sys, experiments.tiny_model.traces; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
