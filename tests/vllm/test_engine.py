"""vLLM itself, with our worker extension: what veRL relies on when it replaces weights and masks ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.verl_plugin.platform import PlatformCPU

EXTENSION = "experiments.verl_plugin.vllm_worker.CPUWorkerExtension"
VOCABULARY = 30  # of the model's 128 ids


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        variables = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin"}
        for name, value in {**variables, "OMP_NUM_THREADS": "1", **PlatformCPU().rollout_env_vars()}.items():
            patch.setenv(name, value)
        from vllm import LLM

        yield LLM(
            str(model),
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.1,
            kv_cache_memory_bytes=2**26,
            distributed_executor_backend="mp",
            worker_extension_cls=EXTENSION,
        )


def test_ids_without_a_token_are_never_sampled(engine: Any) -> None:
    from vllm import SamplingParams

    def sampled() -> list[int]:
        prompts = [{"prompt_token_ids": [2, 60]}] * 64
        answers = engine.generate(prompts, SamplingParams(max_tokens=16, ignore_eos=True), use_tqdm=False)
        return [token for answer in answers for token in answer.outputs[0].token_ids]

    assert max(sampled()) >= VOCABULARY
    engine.collective_rpc("monkey_patch_model", kwargs={"vocab_size": VOCABULARY})  # as veRL does when it is up
    assert len(masked := sampled()) == 64 * 16 and max(masked) < VOCABULARY


def test_a_sync_that_could_not_work_is_refused_when_the_engine_starts() -> None:
    """Instead of a trainer that waits for ever."""
    from vllm.model_executor.layers.linear import LinearBase

    from experiments.verl_plugin.vllm_worker import CPUWorkerExtension

    layer = LinearBase.__new__(LinearBase)
    torch.nn.Module.__init__(layer)
    layer.weight = torch.nn.Parameter(torch.empty(0))
    worker = object.__new__(CPUWorkerExtension)
    worker.model_runner = SimpleNamespace(model=torch.nn.Sequential(layer))
    with pytest.raises(RuntimeError, match=r"must keep their weights .* but 0 has dropped its own"):
        worker.monkey_patch_model(VOCABULARY)
