"""Two exact solvers: one problem over the rationals, and many problems at once in steps of whole numbers."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

MAX_COUNT = 5  # numbers of a problem; 5 already have 112,500 ways to be combined in whole steps
_TABLE = 600_000  # ways tried at a time: the tables then fit the processor's cache

# A way is one index: with k numbers left, a step is pair * 5 + operation, and the index of the state after it is
# step * (states with k numbers) + index of the state before. The result of a step goes to the end of the row.
_OPERATIONS = 5  # of two whole numbers: a + b, |a - b|, a * b, a / b, b / a
_PAIRS = [list(combinations(range(count), 2)) for count in range(MAX_COUNT + 1)]


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An equation that makes `target` from all `numbers` with + - * /, over the rationals; None if there is none.

    The equation is in the grammar of the reward, each operation in parentheses but the outermost. Takes up to some
    milliseconds for 4 numbers and a second for 5.
    """
    found = _combine([(int(number), 1, str(int(number))) for number in numbers], abs(int(target)))
    if found is None:
        return None
    # A negative target is reached exactly if its opposite is: a sign can be pushed down into a difference.
    return found if target >= 0 else f"-({found})"


def _combine(items: list[tuple[int, int, str]], target: int) -> str | None:
    """`items` are (numerator, positive or negative denominator, text)."""
    if len(items) == 1:
        top, bottom, text = items[0]
        return text if top == target * bottom else None
    for i, j in combinations(range(len(items)), 2):
        (a, b, left), (c, d, right) = items[i], items[j]
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        results = [
            (a * d + c * b, b * d, left, "+", right),
            (a * d - c * b, b * d, left, "-", right),
            (c * b - a * d, b * d, right, "-", left),
            (a * c, b * d, left, "*", right),
        ]
        if c:
            results.append((a * d, b * c, left, "/", right))
        if a:
            results.append((c * b, d * a, right, "/", left))
        for top, bottom, x, sign, y in results:
            text = f"{x} {sign} {y}" if not rest else f"({x} {sign} {y})"
            found = _combine([*rest, (top, bottom, text)], target)
            if found is not None:
                return found
    return None


def search(numbers: Ints, targets: Ints, max_value: int | None = None) -> Ints:
    """Find a way to make each target from its numbers when every step gives a whole number from 0 to `max_value`.

    Args:
        numbers: (problems, count), whole numbers >= 0; count from 2 to MAX_COUNT; the product of those above 0 below
            2**52 in each row, so that 64-bit floats are exact.
        targets: (problems,), >= 1.
        max_value: the bound on the results of all steps, the last one included; None: no bound.

    Returns:
        (problems,): the index of a way, which `equation_of` turns into text, or -1 where there is none.
    """
    ways = np.full(len(targets), -1, dtype=np.int64)
    for part in _chunks(numbers):
        a, b = _down_to_two(numbers[part], int(targets[part].max()), max_value)
        goal = targets[part].astype(a.dtype)
        hits = np.empty((_OPERATIONS, *a.shape), dtype=np.bool_)
        hits[0] = a + b == goal
        hits[1] = np.abs(a - b) == goal
        hits[2] = a * b == goal
        hits[3] = (a == goal * b) & (a > 0)
        hits[4] = (b == goal * a) & (b > 0)
        hits = hits.reshape(-1, len(goal))
        found = hits.any(axis=0)
        if max_value is not None:
            found &= goal <= max_value
        ways[part][found] = hits[:, found].argmax(axis=0)
    return ways


def reachable(numbers: Ints, low: int, high: int, max_value: int | None = None) -> npt.NDArray[np.bool_]:
    """Which targets from `low` to `high` can be made from each row of `numbers`, in the steps of `search`.

    Returns a table (rows, high - low + 1); column k stands for the target low + k.
    """
    outside = high - low + 1  # a last column for what is out of range
    table = np.zeros((len(numbers), outside + 1), dtype=np.bool_)
    for part in _chunks(numbers):
        a, b = _down_to_two(numbers[part], high, max_value)
        rows = np.broadcast_to(np.arange(part.start, part.start + a.shape[1]), a.shape)
        for value in _results(a, b, max_value):
            inside = (value >= low) & (value <= high)  # False for NaN
            columns = np.where(inside, value - low, outside).astype(np.int64)
            table[rows, columns] = True
    return table[:, :outside]


def ways_of(count: int) -> int:
    """In how many ways `search` combines `count` numbers: 75 for 3, 2,250 for 4, 112,500 for 5."""
    return _OPERATIONS * _states(count)[2]


def equation_of(numbers: Sequence[int], way: int) -> str:
    """The equation of a way that `search` found for `numbers`."""
    steps = []
    states = _states(len(numbers))
    for left in range(2, len(numbers) + 1):  # the last step is the leading digit of the index
        step, way = divmod(way, states[left])
        steps.append(step)
    items = [(int(number), str(number)) for number in numbers]
    for step in reversed(steps):
        pair, operation = divmod(step, _OPERATIONS)
        i, j = _PAIRS[len(items)][pair]
        (a, left_text), (b, right_text) = items[i], items[j]
        rest = [item for k, item in enumerate(items) if k not in (i, j)]
        if (operation == 1 and a < b) or operation == 4:
            a, b, left_text, right_text = b, a, right_text, left_text
        sign = "+-*//"[operation]
        value = a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a // b
        text = f"{left_text} {sign} {right_text}"
        items = [*rest, (value, f"({text})" if rest else text)]
    return items[0][1]


@cache
def _states(count: int) -> dict[int, int]:
    """How many states there are with so many numbers left."""
    states = {count: 1}
    for left in range(count, 2, -1):
        states[left - 1] = states[left] * len(_PAIRS[left]) * _OPERATIONS
    return states


def _chunks(numbers: Ints) -> list[slice]:
    if not 2 <= numbers.shape[1] <= MAX_COUNT:
        raise ValueError(f"a problem must have 2 to {MAX_COUNT} numbers, but has {numbers.shape[1]}")
    size = max(32, _TABLE // ways_of(numbers.shape[1]))  # shorter rows would be all overhead
    return [slice(start, start + size) for start in range(0, len(numbers), size)]


def _floats(numbers: Ints, largest: int) -> Floats:
    """The numbers as 32-bit floats if all values up to the target `largest` are exact in them, else as 64-bit floats.

    Before the last step no value is above the product of all numbers but one; a last result that is rounded is above
    2**24 and so above the target.
    """
    exact = max(int(numbers.max(initial=2)) ** (numbers.shape[1] - 1), largest) < 1 << 24
    return numbers.astype(np.float32 if exact else np.float64)


def _down_to_two(numbers: Ints, largest: int, max_value: int | None) -> Floats:
    """All states with two numbers left, (2, states, rows). NaN stands for a step that is not allowed, and spreads."""
    state = _floats(numbers, largest).T[:, None, :]
    while (left := len(state)) > 2:
        pairs = _PAIRS[left]
        after = np.empty((left - 1, len(pairs), _OPERATIONS, *state.shape[1:]), dtype=state.dtype)
        for p, (i, j) in enumerate(pairs):
            rest = [k for k in range(left) if k not in (i, j)]
            after[:-1, p] = state[rest][:, None]
            after[-1, p] = _results(state[i], state[j], max_value)
        state = after.reshape(left - 1, -1, state.shape[-1])
    return state


def _results(a: Floats, b: Floats, max_value: int | None) -> Floats:
    """(5, ...): a + b, |a - b|, a * b, a / b, b / a, and NaN for what is no whole number up to `max_value`."""
    results = np.empty((_OPERATIONS, *a.shape), dtype=a.dtype)
    np.add(a, b, out=results[0])
    np.abs(a - b, out=results[1])
    np.multiply(a, b, out=results[2])
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(a, b, out=results[3])
        np.divide(b, a, out=results[4])
        quotients = results[3:]
        quotients[(quotients != np.floor(quotients)) | np.isinf(quotients)] = np.nan
    if max_value is not None:
        results[results > max_value] = np.nan
    return results
