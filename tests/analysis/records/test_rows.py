"""analysis/records/rows.py: the same as a dict of dicts, in a tenth of its memory."""

from __future__ import annotations

import math
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from analysis.records.rows import Rows

NUMBERS = st.floats(allow_nan=False)
ROWS = st.dictionaries(st.integers(-5, 2**40), st.dictionaries(st.sampled_from("abcde"), NUMBERS), max_size=12)


@given(ROWS)
def test_rows_are_the_mapping_that_they_are_made_of(given: dict[int, dict[str, float]]) -> None:
    rows = Rows(given)
    assert list(rows) == sorted(given) and rows == given and len(rows) == len(given)
    assert rows.metrics() == {metric for row in given.values() for metric in row}
    for metric in "abcde":
        points = [(step, row[metric]) for step, row in sorted(given.items()) if metric in row]
        assert rows.points(metric, math.inf) == [point for point in points if math.isfinite(point[1])]
        assert rows.points(metric, 2.0)[1:] == [point for point in points if abs(point[1]) < 2][1:]
        assert rows.steps_with(metric) == [step for step, _ in points]
    for step in (-6, 2**40 + 1):
        assert rows.get(step) is None


def test_a_value_that_is_no_number_is_kept() -> None:
    rows = Rows({3: {"a": math.nan}, 1: {"a": math.inf, "b": 1.0}})
    assert rows[1] == {"a": math.inf, "b": 1.0} and math.isnan(rows[3]["a"])


def test_many_rows_take_little_more_than_their_numbers() -> None:
    metrics = [f"m{number}" for number in range(60)]
    tracemalloc.start()
    rows = Rows({step: {metric: step + 0.5 for metric in metrics} for step in range(2000)})
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 2000 and kept < 1.25 * 2000 * 60 * 8
