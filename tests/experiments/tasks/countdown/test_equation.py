"""Test the strict grammar: what it accepts, what it refuses, and that its arithmetic is exact."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tasks.countdown.equation import MAX_DEPTH, MAX_LENGTH, evaluate, integers, looks_like_equation

Tree = tuple[str, Fraction | None]


def value(text: str) -> Fraction | None:
    pair = evaluate(text)
    return None if pair is None else Fraction(*pair)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" ( 12 - 3 ) * 7 ", 63),
        ("1+2*3", 7),
        ("8-4-2", 2),
        ("64/4/2", 8),
        ("64/(4/2)", 32),
        ("2*3/4*5", Fraction(15, 2)),
        ("8/(3-8/3)", 24),
        ("-3+5", 2),
        ("3--6", 9),
        ("3*-6", -18),
        ("-(-3)*--2", 6),
        ("3\n+\t4\r\n", 7),
        ("0*5", 0),
        ("1/3+1/3+1/3", 1),
    ],
)
def test_value_of_a_sentence(text: str, expected: int | Fraction) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "()", "1 2", "1+", "+1", "1++2", "*2", "2**3", "7//2", "3(3)", "(3)3", "(1", "1)", ")(", "1.5", ".5",
        "3.", "03", "00", "1_0", "1e3", "0x1", "1=1", "1 = 1", "3\u00d74", "3x4", "6\u00f72", "\u0663", "3\u00b2",
        "1\u00a0+1", "1,2", "a", "1+a", "\x00", "1\x00", "1/0", "1/(2-2)", "0/0", "--", "-", "1\\\n+2", "1;2",
        "9" * 600,
    ],
)  # fmt: skip
def test_no_sentence_has_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_bounds_hold_exactly() -> None:
    assert value("(" * MAX_DEPTH + "5" + ")" * MAX_DEPTH) == 5
    assert value("-" * MAX_DEPTH + "5") == 5
    assert evaluate("(" * (MAX_DEPTH + 1) + "5" + ")" * (MAX_DEPTH + 1)) is None
    assert evaluate("-" * (MAX_DEPTH + 1) + "5") is None
    assert value("5".rjust(MAX_LENGTH)) == 5
    assert evaluate("5".rjust(MAX_LENGTH + 1)) is None


def _combine(parts: tuple[Tree, str, Tree, str]) -> Tree:
    (left, x), sign, (right, y), space = parts
    text = f"({left}){space}{sign}{space}({right})"
    if x is None or y is None or (sign == "/" and y == 0):
        return text, None
    return text, {"+": x + y, "-": x - y, "*": x * y, "/": x / (y or 1)}[sign]


def _negate(tree: Tree) -> Tree:
    return f"-({tree[0]})", None if tree[1] is None else -tree[1]


trees: st.SearchStrategy[Tree] = st.recursive(
    st.integers(0, 120).map(lambda number: (str(number), Fraction(number))),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner, st.sampled_from(["", " ", "\n"])).map(_combine)
        | inner.map(_negate)
    ),
    max_leaves=8,
)


@given(trees)
def test_agrees_with_fractions_on_random_trees(tree: Tree) -> None:
    text, expected = tree
    assert value(text) == expected


@given(st.lists(st.sampled_from(["+", "-", "*", "/", "1", "2", "30", "7"]), max_size=12).map(" ".join))
def test_precedence_agrees_with_python(text: str) -> None:
    """Equations without parentheses; numbers become Fractions, so that Python's own arithmetic is exact."""
    tokens = text.split()
    plus = any(a == "+" and (not i or tokens[i - 1] in "+-*/") for i, a in enumerate(tokens))
    exact = " ".join(f"Fraction({token})" if token.isdigit() else token for token in tokens)
    try:
        expected = None if plus else eval(exact, {"Fraction": Fraction})
    except (SyntaxError, ZeroDivisionError):
        expected = None
    if "* *" in text or "/ /" in text:  # Python reads two tokens here too, and raises as well
        expected = None
    assert value(text) == expected


@given(st.text() | st.text("0123456789+-*/() .=x\n"))
def test_takes_any_text(text: str) -> None:
    pair = evaluate(text)
    assert pair is None or pair[1] != 0
    if pair is not None:
        assert looks_like_equation(text)
        assert integers(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1+2)*3 = 9", True),
        ("1.5*4", True),
        ("3 \u00d7 4", True),
        ("6 \u00f7 2", True),
        ("5 \u2212 2", True),
        ("3 x 4", True),
        ("2^3", True),
        ("2**3+1", True),
        ("5", True),
        ("3(3", True),
        ("1\n+\n2", True),
        ("", False),
        (" \n", False),
        ("+-*/()", False),
        ("none", False),
        ("the answer is 5", False),
        ("44 + a", False),
        ("<answer>1", False),
        ("\u0663+\u0664", False),
        ("1" * (MAX_LENGTH + 1), False),
    ],
)
def test_what_looks_like_an_equation(text: str, expected: bool) -> None:
    assert looks_like_equation(text) is expected
