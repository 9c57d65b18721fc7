"""Joining the attempts of a run."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from analysis.records.history import TRAINED, History, Row, join


def trained(step: int, **metrics: float) -> Row:
    return step, {TRAINED: float(step), **metrics}


def test_a_later_attempt_wins_from_its_first_trained_step_and_validation_joins_per_key() -> None:
    first = [
        (0, {"val": 0.1}),
        *(trained(step, length=100 + step) for step in range(1, 10)),
        trained(10, length=110, val=0.2),
    ]
    first += [trained(11, length=111), trained(12, length=112)]
    second = [
        (10, {"val": 0.25, "val2": 0.5}),
        trained(11, length=211),
        trained(12, length=212),
        trained(13, length=213),
    ]
    history = join([first, second])
    assert list(history.rows) == list(range(14))
    assert history.rows[10] == {TRAINED: 10, "length": 110, "val": 0.25, "val2": 0.5}
    assert history.curve("length")[9:] == [(10, 110), (11, 211), (12, 212), (13, 213)]
    assert history.curve("val") == [(0, 0.1), (10, 0.25)]
    assert (history.redone, history.last_step(), history.gaps()) == (2, 13, [])


def test_an_attempt_that_died_after_validating_throws_nothing_away() -> None:
    first = [trained(step) for step in range(1, 13)]
    history = join([first, [(10, {"val": 0.3})]])
    assert history.last_step() == 12
    assert history.redone == 0
    assert history.curve("val") == [(10, 0.3)]


def test_an_attempt_from_the_start_replaces_everything_trained() -> None:
    history = join([[(0, {"val": 0.1}), trained(1, a=1), trained(2, a=2)], [(0, {"val": 0.1}), trained(1, a=5)]])
    assert history.curve("a") == [(1, 5)]
    assert history.redone == 2


def test_gaps_are_the_steps_no_attempt_recorded() -> None:
    assert join([[trained(3), trained(4)], [trained(8)]]).gaps() == [(1, 2), (5, 7)]
    assert join([]).gaps() == []


def test_a_curve_leaves_out_what_is_not_a_number() -> None:
    history = History.of({1: {"a": 1.0}, 2: {"a": math.nan}, 3: {"b": 1.0}, 4: {"a": math.inf}, 5: {"a": 2.0}})
    assert history.curve("a") == [(1, 1.0), (5, 2.0)]
    assert history.curve("missing") == []


@st.composite
def interrupted(draw: st.DrawFn) -> tuple[list[list[Row]], list[Row], int]:
    """Draw (a deterministic training cut into attempts at checkpoints, the same training uncut, steps redone)."""
    steps = draw(st.integers(1, 40))
    every = draw(st.integers(1, 10))
    validate_every = draw(st.integers(1, 10))

    def validation(step: int) -> dict[str, float]:
        return {"val": step / 7, "val_greedy": step / 3}

    def row(step: int) -> Row:
        return trained(step, loss=1 / step, **(validation(step) if step % validate_every == 0 else {}))

    straight = [(0, validation(0)), *(row(step) for step in range(1, steps + 1))]
    attempts, checkpoint, reached, redone = [], 0, 0, 0
    for wished in [*draw(st.lists(st.integers(0, 40), max_size=5)), steps]:
        last = min(max(wished, checkpoint), steps)
        only_validated = last == checkpoint
        attempts.append(
            [(checkpoint, validation(checkpoint)), *(row(step) for step in range(checkpoint + 1, last + 1))]
        )
        if not only_validated:
            redone += reached - checkpoint
            reached = last
            checkpoint = max(checkpoint, last // every * every)
    return attempts, straight, redone


@given(interrupted())
def test_a_deterministic_training_cut_anywhere_joins_to_the_uninterrupted_history(
    case: tuple[list[list[Row]], list[Row], int],
) -> None:
    attempts, straight, redone = case
    history, uncut = join(attempts), join([straight])
    assert history.redone == redone
    assert history.gaps() == []
    assert list(history.rows) == list(uncut.rows)
    assert history.curve("loss") == uncut.curve("loss")
    # A resume validates at its checkpoint even where the straight run did not: more points, never another value.
    assert dict(history.curve("val")).items() >= dict(uncut.curve("val")).items()
    assert all(value == step / 7 for step, value in history.curve("val"))


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.floats(0, 1)), max_size=20), max_size=5))
def test_any_attempts_join_to_ascending_steps_that_are_the_last_attempts_own(
    drawn: list[list[tuple[int, bool, float]]],
) -> None:
    attempts: list[list[Row]] = [
        [trained(step, x=value) if is_trained else (step, {"x": value}) for step, is_trained, value in rows]
        for rows in drawn
    ]
    history = join(attempts)
    steps = list(history.rows)
    assert steps == sorted(set(steps))
    if attempts:
        last = {step: row["x"] for step, row in attempts[-1]}
        assert {step: history.rows[step]["x"] for step in last} == last
    assert join([list(history.rows.items())]).rows == history.rows
