"""A job that takes more memory than it asked for, where the kernel enforces that, as on most clusters."""

from __future__ import annotations

import pytest

from tests.slurm.cluster import Cluster, may_confine
from tests.slurm.conftest import Sweeps, use


def test_what_the_kernel_kills_for_memory_is_told_so_and_not_tried_again(
    make_sweep: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills the attempt alone, so that the job lives on. Where there are no cgroups SLURM ends the job."""
    with Cluster(nodes=1, confined=may_confine()) as cluster:
        use(cluster, monkeypatch)
        greedy = make_sweep(cluster, "memory", "train", "signal once:SIGKILL")
        greedy.launch(mem="300M", retries=2)
        greedy.until_over()
        greedy.must_become("failed", "finished", "finished")
        failure = greedy.failure()
        assert (failure["kind"], failure["remedy"]) == ("out of memory", "ask for more: hydra.launcher.mem")
        assert [len(run.folder.attempts()) for run in greedy.runs] == [1, 1, 2]
        assert "memory" in failure["cause"]
