"""Compare answers with math-verify, in a process of its own (experiments/tasks/confined.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.tasks import confined


def comparer() -> Callable[[Any], dict[str, bool]]:
    """Return a function that says of {"answer", "truth"} whether the answer can be read, and whether it is right.

    An answer is read as a whole, and then as a text in which math-verify finds an expression ("72 apples").
    """
    from math_verify import parse, verify

    def read(text: str) -> list[Any]:
        found: list[Any] = parse(text, parsing_timeout=None)  # its own limit works in the main thread only
        return found

    def compare(request: Any) -> dict[str, bool]:
        answer, truth = request["answer"], read(f"\\boxed{{{request['truth']}}}")
        marked = "$" in answer or "\\boxed" in answer
        readings = [read(text) for text in ([] if marked else [f"\\boxed{{{answer}}}"]) + [answer]]
        right = any(verify(truth, reading, timeout_seconds=None) for reading in readings)
        # What math-verify can't read it returns as a text.
        return {"read": any(not isinstance(part, str) for parts in readings for part in parts), "right": right}

    compare({"answer": "\\frac{1}{2}", "truth": "0.5"})  # its grammars are loaded now, not with the first answer
    return compare


if __name__ == "__main__":
    confined.serve(comparer)
