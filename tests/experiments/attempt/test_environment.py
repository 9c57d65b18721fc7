"""attempt/environment.py: the data files that veRL's library reads, and where caches and W&B's logs lie."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


COMPILED = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "FLASHINFER_WORKSPACE_BASE")


@pytest.mark.parametrize("chosen", [None, "1"])
def test_what_was_compiled_outlives_an_attempt_of_a_run(
    chosen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    def variables(run_name: str, scratch: str) -> dict[str, str]:
        run: Any = SimpleNamespace(path=tmp_path / "runs" / run_name, id="0")
        attempt: Any = SimpleNamespace(path=run.path / "attempts" / scratch, metrics=run.path / "metrics")
        config = {
            "tracking": {"wandb": "disabled", "group": "", "tags": []},
            "trainer": {"device": "cuda"},
            "model": {"path": "Qwen/Qwen2.5-3B"},
        }
        return environment(config, run, attempt, str(tmp_path / scratch))

    for name in COMPILED:
        monkeypatch.delenv(name, raising=False)
    off = "VLLM_DISABLE_COMPILE_CACHE"
    monkeypatch.delenv(off, raising=False)
    assert get_ppo_ray_runtime_env()["env_vars"][off] == "1", "what veRL's workers get unless the attempt says another"
    if chosen:
        monkeypatch.setenv(off, chosen)
    one, other = variables("a-run", "first"), variables("another", "second")
    for name in COMPILED:
        assert one[name] == other[name] and Path(one[name]).is_relative_to(tmp_path / "runs" / ".cache")
    for name, value in one.items():
        monkeypatch.setenv(name, value)
    assert one[off] == (chosen or "0") and off not in get_ppo_ray_runtime_env()["env_vars"]
    assert cache_dir() == one["TORCHINDUCTOR_CACHE_DIR"]
