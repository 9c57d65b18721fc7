"""How many cores a process of the plugin computes with."""

from __future__ import annotations

import os

import torch


def use_cores() -> None:
    """Let torch compute with as many threads as the attempt was given.

    This holds for the calling thread only: OpenMP keeps the number for each thread by itself.
    """
    # The name is experiments.variables.THREADS. It is not imported: a run's identity covers what the plugin imports.
    torch.set_num_threads(int(os.environ.get("R1Z_THREADS", "1")))
