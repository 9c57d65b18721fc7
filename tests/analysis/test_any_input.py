"""No name, value or text that a run may hold crashes the commands; what is sound is drawn."""

from __future__ import annotations

import json
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from analysis import plot_ablation, report
from analysis.records.axes import AXES
from analysis.records.history import History, join
from analysis.records.record import RunRecord
from tests.analysis.conftest import make_run

VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["$\\foo$", "$", "a_b^c", "<b>&", "x" * 300, "\ud800", "\x00\x1b[2J", "a|b", "{}", "", "None"]),
    st.floats(),
    st.integers(-(10**40), 10**40),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=3),
)
NUMBERS = st.one_of(st.floats(), st.sampled_from([1e308, -1e308, 1e-308, 1e99, float("nan"), float("inf")]))
TEXTS = st.one_of(st.text(max_size=40), st.just("\ud83d half"), st.just("</pre><script>"), st.just("$x$"))


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@example(values=["$\\foo$", "\ud800"], numbers=[1e308, -1e308, 1.0], text="\ud83d half")
@example(values=[1e308, "1e308"], numbers=[1e99, 1e99, 1e99], text="$\\foo$")
@given(
    values=st.lists(VALUES, min_size=2, max_size=3),
    numbers=st.lists(NUMBERS, min_size=3, max_size=3),
    text=TEXTS,
)
def test_names_values_and_texts_of_any_kind_are_drawn(values: list[Any], numbers: list[float], text: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for place, value in enumerate(values):
            rows = [(0, {"val-core/countdown/acc/mean@1": numbers[0]})]
            for step, number in enumerate(numbers, 1):
                row = {"training/global_step": step, "critic/score/mean": number, "timing_s/step": abs(number)}
                rows.append((step, {**row, "response_length/mean": number, "val-core/countdown/acc/mean@1": number}))
            path = make_run(folder / "runs", seed=place, attempts=[rows], steps=3, name=f"run-{place}")
            config = yaml.safe_load((path / "config.yaml").read_text())
            config["algorithm"]["kind"] = value
            (path / "config.yaml").write_text(yaml.safe_dump(config))
            (path / "config.yaml").write_bytes(yaml.safe_dump(config).encode("utf-8", "surrogatepass"))
            dump = path / "attempts" / "1" / "rollouts" / "1.jsonl"
            dump.parent.mkdir()
            dump.write_text(json.dumps({"input": text, "output": text, "score": numbers[0], "gts": text}) + "\n")
        runs, out = str(folder / "runs"), folder / "out"
        assert plot_ablation.main(["--runs", runs, "--out", str(out)]) in (0, 2)
        assert report.main(["--runs", runs, "--out", str(out / "report.html")]) in (0, 2)
        for figure in out.glob("*.svg"):
            ElementTree.parse(figure)


@pytest.mark.parametrize("last", [10**8, 10**12])
def test_costs_take_no_longer_where_step_numbers_are_large(last: int) -> None:
    rows = [(step, {"training/global_step": step, "perf/time_per_step": 3600.0}) for step in (1, 2, last)]
    record = RunRecord("run", {}, join([rows]), "finished", 1, last)
    assert AXES["hours"].places(record) == pytest.approx({1: 1.0, 2: 2.0, last: float(last)})
    assert record.missing() == [(3, last - 1)]


def test_a_value_too_large_to_square_counts_as_infinite() -> None:
    history = History.of({1: {"a": 1e308}, 2: {"a": -1e308}, 3: {"a": 1e99}, 4: {"a": 2.0}})
    assert history.curve("a") == [(3, 1e99), (4, 2.0)]


def test_markdown_shows_html_as_text(tmp_path: Path) -> None:
    for value in ("<img src=x onerror=alert(1)>", "b&c"):
        make_run(tmp_path / "runs", steps=10, overrides={"algorithm.kind": value})
    assert plot_ablation.main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "algorithm_kind.md").read_text()
    assert "&lt;img src=x" in page and "<img" not in page
