"""A home that can't be written, as on the compute nodes of many clusters: a run trains all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.training import Command, rows


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_run_trains_under_a_read_only_home(own: Callable[[str], Command], fast: str) -> None:
    """The home is an empty read-only file system in a mount namespace."""
    done = own(fast)
    assert {0, 1, 2} <= rows(done.run).keys(), done.output
    assert "Read-only file system" in done.output, "the home was read-only"
    assert (done.runs_dir / ".cache" / "huggingface" / "datasets").is_dir()
    assert list(done.run.attempts()[0].path.glob("wandb/offline-run-*/*.wandb")), "W&B's files are the attempt's"


def test_what_the_user_has_chosen_stays(tmp_path: Path) -> None:
    from experiments.attempt.caches import CACHES, cache_variables

    assert set(cache_variables(tmp_path, {})) == set(CACHES)
    own = cache_variables(tmp_path, {"HF_HOME": "/scratch/hf", "TRITON_CACHE_DIR": "/scratch/triton"})
    assert not {"HF_DATASETS_CACHE", "HF_MODULES_CACHE", "TRITON_CACHE_DIR"} & set(own)
    assert own["TORCH_HOME"] == str(tmp_path / ".cache" / "torch")
