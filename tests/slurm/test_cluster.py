"""The tests' cluster is a real one."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.slurm.cluster import Cluster


def test_two_nodes_hand_out_their_gpus(cluster: Cluster) -> None:
    ask = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    said = cluster.run("srun", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", "bash", "-c", ask)
    assert sorted(said.splitlines()) == ["n1 0,1", "n2 0,1"]


def test_there_is_no_sacct_without_accounting(cluster: Cluster) -> None:
    assert shutil.which("sacct") is None
    assert Path(shutil.which("sbatch") or "").exists()
