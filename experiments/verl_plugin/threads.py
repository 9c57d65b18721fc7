"""How many cores a process of the plugin computes with."""

from __future__ import annotations

import os

import torch


def use_cores() -> None:
    """Let torch use as many threads as the attempt was given, for what this thread calls (OpenMP counts by thread)."""
    # The name is experiments.variables.THREADS, not imported: a run's identity covers what the plugin imports.
    torch.set_num_threads(int(os.environ.get("R1Z_THREADS", "1")))
