"""What a terminal shows: whole words at any width, and no complaint where nobody reads on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from analysis.pages.formats import terminal_table

MakeRun = Callable[..., Path]
ROOT = Path(__file__).parents[2]
WORD = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
CELL = st.lists(WORD, max_size=4).map(" ".join)


@settings(max_examples=150)
@given(st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=2, max_size=5)))
def test_no_word_is_broken_and_no_line_is_too_long(grid: list[list[str]]) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        for table in terminal_table("title", grid[0], grid[1:], 80):
            console.print(table)
    shown = capture.get()
    assert all(len(line) <= 80 for line in shown.splitlines())
    words = shown.split()
    assert all(words.count(word) >= 1 for row in grid for cell in row for word in cell.split())


@pytest.mark.parametrize("lines", [1, 7, 25])
@pytest.mark.parametrize("module", ["analysis.plot_ablation", "analysis.report"])
def test_a_reader_that_goes_away_is_no_error_and_all_files_are_written(
    module: str, lines: int, make: MakeRun, runs: Path, tmp_path: Path
) -> None:
    for temperature in (0.6, 1.0):
        make(temperature=temperature)
    out = tmp_path / "out" / ("report.html" if module == "analysis.report" else "")
    command = [sys.executable, "-u", "-m", module, "--runs", str(runs), "--out", str(out)]
    reader, writer = os.pipe()
    process = subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    with open(reader) as shown:
        for _ in range(lines):
            shown.readline()
    _, complaints = process.communicate()
    assert complaints == "" and process.returncode in (0, 141)
    wanted = ["report.html"] if module == "analysis.report" else ["temperature.md", "temperature-composition.pdf"]
    assert all((tmp_path / "out" / name).is_file() for name in wanted)


def test_a_filter_takes_keys_and_values_as_the_tables_write_them(
    make: MakeRun, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.plot_ablation import main

    for top_p in (0.8, 1.0):
        make(overrides={"actor_rollout_ref.rollout.top_p": top_p}, n=5 if top_p == 1.0 else 8)
    make(algorithm="gae")
    command = ["--runs", str(runs), "--out", str(tmp_path), "--filter"]
    for condition in ("rollout.top_p=0.8", "actor_rollout_ref.rollout.top_p=0.8", "top_p=0.8", "n=8", "algorithm=ppo"):
        assert main([*command, condition]) == 0, condition
        assert "1 seed" in capsys.readouterr().out
    assert main([*command, "rollout.top_q=0.8"]) == 2
    assert "no run has a 'rollout.top_q'; nearest: " in capsys.readouterr().err
