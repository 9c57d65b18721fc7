"""experiments/terminal.py: texts for people, and commands whose output nobody reads any more."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import terminal
from experiments.project import PROJECT_DIR
from experiments.store.rundir import RunDir
from experiments.terminal import counted, hours_text, print_table, size


def test_bytes_are_told_in_units_of_1024() -> None:
    assert [size(n) for n in (0, 1023, 1024, 12 << 20, 3 << 30, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "12 MiB",
        "3.0 GiB",
        "5.0 TiB",
    ]


def test_hours_have_two_digits_that_count_and_no_exponent() -> None:
    assert [hours_text(h) for h in (0.0213, 4.51, 44.2, 132.0, 1290.0)] == ["0.021", "4.5", "44", "130", "1,300"]
    assert (counted(1, "run"), counted(3, "run")) == ("1 run", "3 runs")


@pytest.mark.parametrize(
    "command", [["experiments.runs", "list", "--json"], ["experiments.run", "--cfg", "job"]], ids=str
)
def test_a_command_whose_reader_has_gone_ends_without_a_word(command: list[str], tmp_path: Path) -> None:
    """As `... | head` leaves it: what it says must not be taken for a mistake."""
    RunDir(tmp_path / "runs" / "a-00000001").create("seed: 1\n", {})
    read, write = os.pipe()
    os.close(read)
    variables = {**os.environ, "PYTHONPATH": str(PROJECT_DIR), "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=variables, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_table_breaks_no_word(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, width=width))
    columns = ["run", "state", "step", "accuracy T=1", "reward", "minutes"]
    row = ["experiment=smoke,temperature=0.6,clip_ratio_high=0.28", "interrupted", "4/50", "0.125 -> 0.250", "0.1", "9"]
    print_table("where the runs are", columns, [row, ["baseline", *row[1:]]], ("minutes", "reward"))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    printed = {word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()}
    parts = {word for cell in row[:4] for word in cell.replace(",", ", ").split()}
    assert parts <= printed | {word.rstrip(",") for word in printed} or row[0] in printed, parts - printed
    assert "interrupted" in printed and "->" in printed
    assert ("no room for" in screen.getvalue()) == (width < 80)
