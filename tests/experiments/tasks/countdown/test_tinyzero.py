"""Test TinyZero's score, bug for bug, against the same steps by regular expressions and Python's own `eval`."""

import ast
import re
import warnings
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from experiments.tasks.countdown.reward import compute_score
from experiments.tasks.countdown.tinyzero import MAX_BITS, MAX_PARENTHESES, evaluate, extract

ALLOWED = re.compile(r"^[\d+\-*/().\s]+$")


def python(text: str) -> Any:
    """What `eval` gives, as the original calls it; None if it raises or gives no number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = eval(text, {"__builtins__": None}, {})
        except Exception:
            return None
    return result if isinstance(result, int | float | complex) else None


def has_large_power(text: str) -> bool:
    """Whether `eval` could take long: it looks at the operands of every **, the inner ones first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    for power in reversed(powers):  # ast.walk goes from the outside in
        base, exponent = python(ast.unparse(power.left)), python(ast.unparse(power.right))
        whole = isinstance(base, int) and isinstance(exponent, int)
        if whole and abs(base) > 1 and base.bit_length() * exponent > MAX_BITS:
            return True
    return False


def tinyzero(response: str, target: int, numbers: list[int]) -> float:
    """Return the score by the original's steps on the text after its "Assistant:"."""
    found = re.findall(r"<answer>(.*?)</answer>", response.split("\n")[-1])
    if not found:
        return 0.0
    answer = found[-1].strip()
    if sorted(int(run) for run in re.findall(r"\d+", answer)) != sorted(numbers) or not ALLOWED.match(answer):
        return 0.1
    result = python(answer)
    try:
        return 1.0 if result is not None and abs(result - target) < 1e-5 else 0.1
    except OverflowError:
        return 0.1


def check(text: str) -> None:
    text = text.strip()
    assume(not has_large_power(text))
    expected = python(text) if ALLOWED.match(text) else None
    ours = evaluate(text)
    assert type(ours) is type(expected)
    # repr shows NaN and the sign of zero; a very long integer has no repr.
    assert ours == expected if isinstance(ours, int) else repr(ours) == repr(expected)


tokens = st.sampled_from(
    [*"+-*/().", "**", "//", "0", "1", "2", "7", "35", "99", "007", "00", "1.5", ".5", "3.", "007.5", *" \t\f\r"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(tokens, max_size=14).map("".join))
def test_any_tokens_evaluate_as_in_python(text: str) -> None:
    check(text)


@settings(max_examples=400)
@given(st.text("01234567890.+-*/() \t\f\r\v\x1c\xa0\u0663\u2003\u00b2,", max_size=18))
@example("(1+\r2)")
@example("(1)\r+2")
@example("1..5")
def test_any_characters_evaluate_as_in_python(text: str) -> None:
    assume(len(re.findall(r"\d{4,}", text)) == 0 or "**" not in text)
    check(text)


literals = st.sampled_from(["0", "1", "2", "3", "7", "10", "99", "1.5", ".5", "3.", "2.25"])
operators = st.sampled_from([" + ", "-", "*", "/", "//", "**", " ** ", "*-", "**-", "- -", "+\t+"])
expressions = st.recursive(
    literals,
    lambda inner: (
        st.tuples(inner, operators, inner).map("".join)
        | inner.map(lambda text: f"({text})")
        | inner.map(lambda text: f"-{text}")
    ),
    max_leaves=7,
)


@settings(max_examples=400)
@given(expressions)
@example("(-8)**.5")
@example("((-4)**.5)**2")
@example("-2**-2**2")
@example("(-8)**.5//1")
@example("2.0**9999")
@example("0**-1")
def test_expressions_evaluate_as_in_python(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "text",
    [
        "()",
        "()+()",
        "3(3)",
        "(3)(3)",
        "3(*3)",
        "...",
        "3+...",
        "1.real",
        "007",
        "1 2",
        "*3",
        "3***2",
        "1=1",
        "1,2",
        "",
        " ",
    ],
)
def test_not_evaluable(text: str) -> None:
    assert evaluate(text) is None
    assert python(text) is None or text.strip() == ""


@pytest.mark.parametrize("text", ["9**9**9", "9**9**9**9", "(9**9**9)*0", "(2**99999)**2", "7**(9**99)//1"])
def test_a_power_that_would_hang_is_refused(text: str) -> None:
    assert evaluate(text) is None


def test_powers_that_cannot_grow_are_computed() -> None:
    assert evaluate("1**(9**999)") == 1
    assert evaluate("0**(9**999)") == 0
    assert evaluate("(-1)**(9**999)") == -1
    assert evaluate("2**-(9**99)") == 2.0**-1e90 == 0.0


def test_parentheses_nest_as_deep_as_in_python() -> None:
    deep = "(" * MAX_PARENTHESES + "5" + ")" * MAX_PARENTHESES
    assert evaluate(deep) == python(deep) == 5
    assert evaluate(f"({deep})") is python(f"({deep})") is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<answer> 1+2 </answer>", "1+2"),
        ("<answer>1</answer> or <answer>2</answer>", "2"),
        ("<answer>1</answer> or <answer>2", "1"),
        ("<answer>1<answer>2</answer>", "1<answer>2"),
        ("<answer>1</answer>2</answer>", "1"),
        ("<answer>1</answer>\n", None),
        ("<answer>1\n</answer>", None),
        ("<answer>1</answer>\n<answer>2</answer>", "2"),
        ("<answer>1\r2</answer>", "1\r2"),
        ("<answer></answer>", ""),
        ("</answer><answer>", None),
        ("", None),
    ],
)
def test_extraction(response: str, expected: str | None) -> None:
    assert extract(response) == expected


pieces = st.sampled_from(
    ["<answer>", "</answer>", "<answer> ", " </answer>", "</think>", "\n", " ", "<answer>(1+2)*3</answer>", "1", "2",
     "3", "1.2*3", "3-2", "(", ")", "*", "+", "/", "//", "**", "=", "x", "-", "3 - 2 + 1", "1*2*3", "\u0661"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(pieces, max_size=12).map("".join), st.integers(-3, 12))
@example("<answer>1.2*3</answer>", 4)
@example("<answer>2**3+1</answer>", 9)
@example("<answer>7//3+1</answer>", 3)
def test_whole_responses_score_as_in_the_original(response: str, target: int) -> None:
    numbers = [1, 2, 3]
    equation = extract(response)
    assume(equation is None or not has_large_power(equation))
    expected = tinyzero(response, target, numbers)
    scores = compute_score("countdown", response, {"target": target, "numbers": numbers}, mode="tinyzero")
    assert scores["score"] == expected
    strict = compute_score("countdown", response, {"target": target, "numbers": numbers})
    assert strict["hack"] == scores["hack"] == float(expected == 1.0 and not strict["acc"])
    assert {**strict, "score": 0} == {**scores, "score": 0}


@settings(max_examples=400)
@given(
    st.permutations([97, 98, 99, 13]),
    st.lists(st.sampled_from("+-*/"), min_size=3, max_size=3),
    st.integers(0, 4),
    st.data(),
)
def test_hack_is_exact_where_division_rounds(
    numbers: list[int], signs: list[str], shape: int, data: st.DataObject
) -> None:
    """TinyZero divides in floats, which round. Score and hack must agree with it even if the rounding decides."""
    a, b, c, d = numbers
    p, q, r = signs
    text = (
        f"{a}{p}{b}{q}{c}{r}{d}",
        f"({a}{p}{b}){q}({c}{r}{d})",
        f"{a}{p}({b}{q}({c}{r}{d}))",
        f"{a}{p}({b}{q}{c}{r}{d})",
        f"({a}{p}({b}{q}{c})){r}{d}",
    )[shape]
    result = python(text)
    near = 10 if result is None else round(result)
    target = data.draw(st.sampled_from([near, near + 1, 50]))
    truth = {"target": target, "numbers": numbers}
    response = f"<answer>{text}</answer>"
    assert compute_score("countdown", response, truth, mode="tinyzero")["score"] == tinyzero(response, target, numbers)
    strict = compute_score("countdown", response, truth)
    assert strict["hack"] == float(tinyzero(response, target, numbers) == 1.0 and not strict["acc"])
