"""How a user says which runs are meant, in the commands over run folders and in the analysis alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.selection import Condition, matching, means, nearest, parse_condition


@given(st.one_of(st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False), st.text()))
def test_a_value_s_own_text_means_it(value: Any) -> None:
    assert means(str(value), value)


@pytest.mark.parametrize("text, value", [("1", True), ("0", False), ("0.6", "x"), ("x", 0.6), ("", None), ("1", None)])
def test_other_texts_don_t(text: str, value: Any) -> None:
    assert not means(text, value)


@pytest.mark.parametrize(
    "text, value",
    [("0.60", 0.6), ("1", 1.0), ("1e-3", 0.001), ("null", None), ("True", True), ("fin*", "finished"), ("s?d", "sad")],
)
def test_numbers_are_compared_as_numbers_and_texts_may_hold_wildcards(text: str, value: Any) -> None:
    assert means(text, value)


@pytest.mark.parametrize(
    "text, value", [("0.*", 0.6), ("*", 1.0), ("*", None), ("fin", "finished"), ("F*", "finished")]
)
def test_wildcards_are_for_texts_alone_and_case_counts(text: str, value: Any) -> None:
    assert not means(text, value)


@pytest.mark.parametrize(
    "text, condition",
    [
        ("rollout.n=5", Condition("rollout.n", "5")),
        (" kl.coef != 0 ", Condition("kl.coef", "0", equal=False)),
        ("name=a=b", Condition("name", "a=b")),
        ("tracking.group=", Condition("tracking.group", "")),
    ],
)
def test_conditions(text: str, condition: Condition) -> None:
    assert parse_condition(text) == condition
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize("text", ["", "x", "=5", "!=5", " = "])
def test_what_is_no_condition(text: str) -> None:
    assert parse_condition(text) is None


def test_of_several_values_one_is_enough_and_a_run_without_the_key_is_another() -> None:
    assert Condition("tags", "b").accepts(["a", "b"]) and not Condition("tags", "b", equal=False).accepts(["a", "b"])
    assert not Condition("kl.coef", "0").accepts([]) and Condition("kl.coef", "0", equal=False).accepts([])


RUNS = ["temperature=0.6-ab12", "temperature=1.0-ab34", "n=3-ab12ff", "n=3-temperature=0.6-ab12"]


@pytest.mark.parametrize(
    "wanted, meant",
    [
        ("temperature=0.6-ab12", RUNS[:1]),
        ("temperature=1", RUNS[1:2]),
        ("ab3", RUNS[1:2]),
        ("ab12f", RUNS[2:3]),
        ("ab12", [RUNS[0], RUNS[3]]),
        ("temperature", RUNS[:2]),
        ("seed", []),
    ],
)
def test_a_whole_name_comes_before_a_whole_id_and_that_before_a_beginning(wanted: str, meant: list[str]) -> None:
    assert matching(wanted, RUNS) == meant


def test_the_nearest_words_are_three_at_most_and_alike() -> None:
    assert nearest("rollout.temprature", ["rollout.temperature", "seed"], alike=0.6) == ["rollout.temperature"]
    assert len(nearest("x", ["a", "b", "c", "d"])) == 3
