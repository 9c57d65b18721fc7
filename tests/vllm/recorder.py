"""A logits processor for vLLM that changes no logits and records the temperature of every request."""

from __future__ import annotations

import os
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

FILE = "TEMPERATURES_FILE"  # the environment variable that names the file; it gets one line per request


class TemperatureRecorder(LogitsProcessor):
    """vLLM's engine argument logits_processors chooses it; it lives in the worker that samples."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.file = open(os.environ[FILE], "a", buffering=1)  # noqa: SIM115  as long as the worker lives

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: Any) -> None:
        for _, params, *_ in batch_update.added if batch_update else ():
            self.file.write(f"{params.temperature}\n")

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
