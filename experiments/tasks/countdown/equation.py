"""Equations as a model writes them: the strict grammar, read in exact arithmetic.

    sum     = product (("+" | "-") product)*
    product = atom (("*" | "/") atom)*
    atom    = "-" atom | "(" sum ")" | integer        ASCII digits, no leading zero

White space may stand between tokens. Nothing is ever handed to Python's own parser.
"""

import re

MAX_LENGTH = 512  # characters; six numbers with generous white space and parentheses need about a hundred
MAX_DEPTH = 50  # nested parentheses and signs: keeps the recursion below far from Python's limit

# What people and models write for an equation, right or wrong: digits and the signs of arithmetic, among them
# "=", ".", "^", the letter x and the typographic signs for times, dot, divide and minus.
_SIGNS = "\\s+\\-*/()=.^xX\u00d7\u00b7\u00f7\u2212"
_EQUATION_LIKE = re.compile(f"[{_SIGNS}]*[0-9][0-9{_SIGNS}]*", re.ASCII)
_TOKEN = re.compile(r"[0-9]+|[^0-9\s]", re.ASCII)  # any other character is a token too, but no rule takes it
_INTEGER = re.compile(r"[0-9]+")


class _Refused(Exception):
    """The text is not a sentence of the grammar, nests too deeply or divides by zero."""


def looks_like_equation(text: str) -> bool:
    """Whether `text` tries to be an equation: at most MAX_LENGTH characters, only arithmetic's, at least one digit."""
    return len(text) <= MAX_LENGTH and _EQUATION_LIKE.fullmatch(text) is not None


def integers(text: str) -> list[int]:
    """Every run of ASCII digits in `text` as an integer, sorted. `text` must have at most MAX_LENGTH characters."""
    return sorted(map(int, _INTEGER.findall(text)))


def evaluate(text: str) -> tuple[int, int] | None:
    """The exact value of `text` as (numerator, denominator), not reduced, the denominator of either sign.

    None when the text is not in the grammar, is longer than MAX_LENGTH, nests deeper than MAX_DEPTH or divides by zero.
    Never raises, and takes time linear in the number of tokens.
    """
    if len(text) > MAX_LENGTH:
        return None
    tokens = _TOKEN.findall(text)
    tokens.append("")  # an end mark, so that no look at the next token needs a bound check
    try:
        top, bottom, end = _sum(tokens, 0, 0)
    except _Refused:
        return None
    return (top, bottom) if end == len(tokens) - 1 else None


def _sum(tokens: list[str], i: int, depth: int) -> tuple[int, int, int]:
    top, bottom, i = _product(tokens, i, depth)
    while True:
        sign = tokens[i]
        if sign == "+":
            top2, bottom2, i = _product(tokens, i + 1, depth)
            top = top * bottom2 + top2 * bottom
        elif sign == "-":
            top2, bottom2, i = _product(tokens, i + 1, depth)
            top = top * bottom2 - top2 * bottom
        else:
            return top, bottom, i
        bottom *= bottom2


def _product(tokens: list[str], i: int, depth: int) -> tuple[int, int, int]:
    top, bottom, i = _atom(tokens, i, depth)
    while True:
        sign = tokens[i]
        if sign == "*":
            top2, bottom2, i = _atom(tokens, i + 1, depth)
            top *= top2
            bottom *= bottom2
        elif sign == "/":
            top2, bottom2, i = _atom(tokens, i + 1, depth)
            if top2 == 0:
                raise _Refused
            top *= bottom2
            bottom *= top2
        else:
            return top, bottom, i


def _atom(tokens: list[str], i: int, depth: int) -> tuple[int, int, int]:
    token = tokens[i]
    if "0" <= token < ":":  # begins with an ASCII digit
        if token[0] == "0" and token != "0":
            raise _Refused
        return int(token), 1, i + 1
    if depth == MAX_DEPTH:
        raise _Refused
    if token == "(":
        top, bottom, i = _sum(tokens, i + 1, depth + 1)
        if tokens[i] != ")":
            raise _Refused
        return top, bottom, i + 1
    if token == "-":
        top, bottom, i = _atom(tokens, i + 1, depth + 1)
        return -top, bottom, i
    raise _Refused
