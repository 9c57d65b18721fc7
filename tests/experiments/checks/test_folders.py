"""checks/folders.py refuses the few paths that PYTHONPATH or `datasets` would read as something else, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.checks.folders import folder_problems
from tests.experiments.right_config import Make

ODD = "a user's #1 [x]*? %j =,;é日\n\"\\{y}~&|"


def test_other_characters_are_free(make: Make, tmp_path: Path) -> None:
    files = [str(tmp_path / ODD / name) for name in ("train.parquet", "more:1.parquet")]
    config = make(runs_dir=str(tmp_path / ODD), data__train_files=files, data__val_files="$NO_SUCH_VARIABLE/v.parquet")
    assert folder_problems(config) == []


def test_a_colon_would_cut_pythonpath(make: Make, tmp_path: Path) -> None:
    (problem,) = folder_problems(make(runs_dir=str(tmp_path / "a:b")))
    assert problem == (
        "runs_dir must not have ':' in its path, at which PYTHONPATH would be cut, but is "
        f"{tmp_path / 'a:b'}; choose another runs_dir"
    )


@pytest.mark.parametrize("name", ["a::b", "$HOME", "x${HOME}"])
def test_what_datasets_takes_for_something_else(make: Make, tmp_path: Path, name: str) -> None:
    files = {f"data__{key}_files": str(tmp_path / name / f"{key}.parquet") for key in ("train", "val")}
    (problem,) = folder_problems(make(**files))
    assert f"but is {tmp_path / name}; choose another data_dir" in problem
