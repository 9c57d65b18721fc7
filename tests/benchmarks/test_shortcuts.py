"""benchmarks/shortcuts.py: what it takes out is there, and the copy without it still works."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks.shortcuts import MEASURES, SHORTCUTS, copy_without, planning


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_can_be_taken_out(name: str, tmp_path: Path) -> None:
    shortcut = SHORTCUTS[name]
    changed = copy_without(shortcut, tmp_path / "project") / shortcut.file
    ast.parse(changed.read_text(encoding="utf-8"))
    assert set(shortcut.measures) <= set(MEASURES)


def test_a_copy_plans(tmp_path: Path) -> None:
    figures = planning(copy_without(SHORTCUTS["sweep_compose"], tmp_path / "project"), 4)
    assert figures["plan of 4 arms"] > 0
    assert not list((tmp_path / "project" / "runs").glob("*-*")), "a plan makes no run"


def test_a_text_that_is_not_there_is_refused(tmp_path: Path) -> None:
    shortcut = SHORTCUTS["collector"]
    gone = type(shortcut)(shortcut.file, "no such line", "", shortcut.measures)
    with pytest.raises(ValueError, match=r"experiments/run.py must have the text 'no such line' once"):
        copy_without(gone, tmp_path / "project")
