"""Compare answers with math-verify, in a process of its own (experiments/tasks/confined.py)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from experiments.tasks import confined

_WHOLE = re.compile(r"\$\s*([^$]*?)\s*\$")


def comparer() -> Callable[[Any], dict[str, bool]]:
    """Return a function that says of {"answer", "truth"} whether the answer can be read, and whether it is right.

    Both are read as a whole, between dollar signs and in a box, since math-verify reads percentages in the one only.
    Then the answer is read as a text in which an expression stands ("72 apples").
    """
    from math_verify import parse, verify

    def read(text: str) -> list[Any]:
        found: list[Any] = parse(text, parsing_timeout=None)  # its own limit works in the main thread only
        return found

    def whole(text: str) -> list[Any]:
        if marked := _WHOLE.fullmatch(text):
            text = marked[1]
        # Beyond a box that the answer itself closes there would be room for a second guess.
        return [*read(f"${text}$"), *read(f"\\boxed{{{text}}}")] if "$" not in text and _balanced(text) else []

    def compare(request: Any) -> dict[str, bool]:
        answer, truth = (request[key].replace("\\$", "") for key in ("answer", "truth"))  # without currencies
        right, readings = whole(truth) or read(truth), [*whole(answer), *read(answer)]
        return {
            "read": any(not isinstance(reading, str) for reading in readings),  # a text is what could not be read
            "right": verify(right, readings, timeout_seconds=None),
        }

    compare({"answer": "\\frac{1}{2}", "truth": "0.5"})  # its grammars are loaded now, not with the first answer
    return compare


def _balanced(text: str) -> bool:
    """Return whether each brace of a formula has its partner; \\{ and \\} are no braces."""
    depth = 0
    for part in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(part, 0)
        if depth < 0:
            return False
    return depth == 0


if __name__ == "__main__":
    confined.serve(comparer)
