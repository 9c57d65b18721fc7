"""attempt/environment.py: the data files that veRL's library reads, and where W&B keeps its logs."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from experiments.attempt.environment import environment, escaped
from experiments.store.rundir import RunDir
from tests.slurm.conftest import smoke


@pytest.mark.parametrize("name", ["a[bc]*", "a?*", "**", "a user's #1 %j =,;é日\n\"\\{y}~&|"])
def test_a_path_with_a_pattern_s_characters_means_itself(tmp_path: Path, name: str) -> None:
    for rows, folder in enumerate((name, "ab", "ac", "axx"), 1):  # the pattern `name` would match the others
        (tmp_path / folder).mkdir()
        parquet.write_table(pa.table({"row": [0] * rows}), tmp_path / folder / "train.parquet")
    file = str(tmp_path / name / "train.parquet")
    for given in (escaped(file), escaped([file])):
        assert len(datasets.load_dataset("parquet", data_files=given, cache_dir=str(tmp_path / "cache"))["train"]) == 1
    assert escaped(None) is None


def test_w_and_b_s_cache_is_the_attempt_s_unless_the_user_has_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its service leaves two logs of each start there."""
    run = RunDir(tmp_path / "run-0123abcd")
    attempt = run.new_attempt()
    config = {**smoke(), "tracking": {"wandb": "offline", "group": "baseline", "tags": []}}
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    assert environment(config, run, attempt, "/tmp/x")["WANDB_CACHE_DIR"] == str(attempt.path)
    monkeypatch.setenv("WANDB_CACHE_DIR", "/elsewhere")
    assert environment(config, run, attempt, "/tmp/x")["WANDB_CACHE_DIR"] == "/elsewhere"
