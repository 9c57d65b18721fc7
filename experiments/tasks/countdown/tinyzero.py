"""TinyZero's countdown score, bug for bug, without handing anything to Python's parser.

TinyZero (github.com/Jiayi-Pan/TinyZero, verl/utils/reward_score/countdown.py) takes what follows "Assistant:", the last
line of that, and the last <answer>..</answer> in that line. It checks that the runs of digits in the answer are the
given numbers, and hands the answer to `eval`. So digits can be spliced into decimals, ** and // count, and `9**9**9`
hangs the worker. Here a small interpreter follows Python's rules for the characters that TinyZero lets through (digits,
white space, + - * / ( ) .). Two differences are intended. A power of more than MAX_BITS bits is refused instead of
computed. Python's parser gives up when its stack is full (near 3000 signs in a row), this one after MAX_TOKENS tokens.
"""

import re

MAX_BITS = 1 << 17  # 39,000 decimal digits; keeps any one operation at milliseconds
MAX_TOKENS = 4000
MAX_PARENTHESES = 200  # the limit of Python's own tokenizer

_OPEN, _CLOSE = "<answer>", "</answer>"
_DIGITS = re.compile(r"\d+")  # of any script, as TinyZero reads them
_ALPHABET = re.compile(r"[\d+\-*/().\s]+")
# \r ends a logical line of Python outside parentheses; \f is white space to Python, \v is not.
_TOKEN = re.compile(r"[ \t\f]+|\d+\.?\d*|\.\d+|\*\*|//|[-+*/()\r]", re.ASCII)

Number = int | float | complex

# How tightly an operator binds: "neg" and "pos" are the signs before an operand.
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "neg": 3, "pos": 3, "**": 4}
_SIGNS = {"-": "neg", "+": "pos"}


class _Refused(Exception):
    """Python would raise here, or take too long."""


def extract(response: str) -> str | None:
    """The answer TinyZero finds in a response: the last <answer>..</answer> in its last line, stripped, or None."""
    at = response.rfind("\n") + 1
    answer = None
    while (start := response.find(_OPEN, at)) >= 0 and (end := response.find(_CLOSE, start)) >= 0:
        answer = response[start + len(_OPEN) : end]
        at = end + len(_CLOSE)
    return None if answer is None else answer.strip()


def is_right(equation: str, target: int, numbers: list[int]) -> bool:
    """Whether TinyZero gives 1.0 to an extracted equation, for a target and the sorted numbers; else it gives 0.1."""
    try:
        if sorted(map(int, _DIGITS.findall(equation))) != numbers:
            return False
        value = evaluate(equation)
        return value is not None and abs(value - target) < 1e-5
    except (ValueError, OverflowError):  # more digits than int() takes, or a value too large for abs()
        return False


def evaluate(equation: str) -> Number | None:
    """What Python's `eval` makes of a stripped text over TinyZero's characters; None where it would raise.

    None also for a text that is no number to Python (`()`), for other characters, and past the limits above.
    """
    if _ALPHABET.fullmatch(equation) is None:
        return None
    try:
        return _value(_tokens(equation))
    except (_Refused, ArithmeticError, ValueError, TypeError):
        return None  # TypeError: a complex number meets //


def _tokens(equation: str) -> list[str]:
    tokens: list[str] = []
    at = depth = 0
    while at < len(equation):
        match = _TOKEN.match(equation, at)
        if match is None or len(tokens) == MAX_TOKENS:  # no match: a dot alone, a digit or a space of another script
            raise _Refused
        at = match.end()
        token = match[0]
        if token == "(":
            depth += 1
            if depth > MAX_PARENTHESES:
                raise _Refused
        elif token == ")":
            depth -= 1
        elif token == "\r":
            if depth <= 0:
                raise _Refused
            continue
        elif token[0] in " \t\f":
            continue
        tokens.append(token)
    return tokens


def _value(tokens: list[str]) -> Number:
    """Operator precedence with two stacks: no recursion, so nesting costs no stack."""
    values: list[Number] = []
    waiting: list[str] = []  # operators and "(" not applied yet
    operand_next = True
    for token in tokens:
        if operand_next:
            if token in _SIGNS:
                waiting.append(_SIGNS[token])
            elif token == "(":
                waiting.append(token)
            else:
                values.append(_literal(token))
                operand_next = False
        elif token == ")":
            _apply(values, waiting, 0)
            if not waiting:
                raise _Refused
            waiting.pop()
        elif token in _BINDS:
            # First apply the operators on the left that bind at least as tightly. None does for **, not even another
            # **, since powers are grouped from the right.
            _apply(values, waiting, _BINDS[token] + (token == "**"))
            waiting.append(token)
            operand_next = True
        else:
            raise _Refused
    if operand_next:
        raise _Refused
    _apply(values, waiting, 0)
    if waiting:
        raise _Refused
    return values[0]


def _literal(token: str) -> Number:
    if "." in token:
        return float(token)
    if not token.isdigit() or (token[0] == "0" and token.strip("0")):
        raise _Refused
    return int(token)


def _apply(values: list[Number], waiting: list[str], binds: int) -> None:
    """Apply the waiting operators that bind at least as tightly as `binds`, back to the last open parenthesis."""
    while waiting and waiting[-1] != "(" and _BINDS[waiting[-1]] >= binds:
        operator = waiting.pop()
        right = values.pop()
        if operator == "neg":
            values.append(-right)
        elif operator == "pos":
            values.append(right)
        else:
            values.append(_operate(operator, values.pop(), right))


def _operate(operator: str, left: Number, right: Number) -> Number:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right
    if operator == "//":
        return left // right  # type: ignore[operator]  # of a complex number: TypeError, as in Python
    if isinstance(left, int) and isinstance(right, int) and abs(left) > 1 and left.bit_length() * right > MAX_BITS:
        raise _Refused
    power: Number = left**right
    return power
