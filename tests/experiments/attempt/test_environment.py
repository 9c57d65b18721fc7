"""attempt/environment.py: the data files that veRL's library reads are those of the config, whatever their names."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from experiments.attempt.environment import escaped


@pytest.mark.parametrize("name", ["a[bc]*", "a?*", "**", "a user's #1 %j =,;é日\n\"\\{y}~&|"])
def test_a_path_with_a_pattern_s_characters_means_itself(tmp_path: Path, name: str) -> None:
    for rows, folder in enumerate((name, "ab", "ac", "axx"), 1):  # the pattern `name` would match the others
        (tmp_path / folder).mkdir()
        parquet.write_table(pa.table({"row": [0] * rows}), tmp_path / folder / "train.parquet")
    file = str(tmp_path / name / "train.parquet")
    for given in (escaped(file), escaped([file])):
        assert len(datasets.load_dataset("parquet", data_files=given, cache_dir=str(tmp_path / "cache"))["train"]) == 1
    assert escaped(None) is None
