"""vLLM itself, with our worker extension, does what veRL relies on when veRL replaces weights and masks ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.checks.cpu import HEADS
from experiments.checks.parallelism import length_problems, rollout_problems
from experiments.checks.value_rules import RULES
from experiments.models.shape import Shape
from experiments.verl_plugin.lifecycle.platform import PlatformCPU

EXTENSION = "experiments.verl_plugin.rollout.vllm_worker.CPUWorkerExtension"
VOCABULARY = 30  # of the model's 128 ids
OTHER_END = 11  # " +": an end of a response in generation_config, but not the tokenizer's, as in Qwen2.5's base models


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("other-end") / "model"
    shutil.copytree(model, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": OTHER_END}))
    with pytest.MonkeyPatch.context() as patch:
        variables = {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "experiments.verl_plugin"}
        for name, value in {**variables, "OMP_NUM_THREADS": "1", **PlatformCPU().rollout_env_vars()}.items():
            patch.setenv(name, value)
        from vllm import LLM

        yield LLM(
            str(folder),
            dtype="float32",
            enforce_eager=True,
            gpu_memory_utilization=0.1,
            kv_cache_memory_bytes=2**26,
            distributed_executor_backend="mp",
            worker_extension_cls=EXTENSION,
        )


def test_a_response_stops_at_generation_config_s_end_and_the_tokenizer_s(engine: Any) -> None:
    from vllm import SamplingParams

    own = engine.get_tokenizer().eos_token_id
    assert own not in (None, OTHER_END)
    # veRL asks in this way: it names no end of a response and leaves that to the engine.
    prompts = [{"prompt_token_ids": [2, 60]}] * 256
    answers = engine.generate(prompts, SamplingParams(max_tokens=128), use_tqdm=False)
    responses = [list(answer.outputs[0].token_ids) for answer in answers]
    assert {response[-1] for response in responses if len(response) < 128} == {own, OTHER_END}
    assert not any({own, OTHER_END} & set(response[:-1]) for response in responses)


def test_ids_without_a_token_are_never_sampled(engine: Any) -> None:
    from vllm import SamplingParams

    def sampled() -> list[int]:
        prompts = [{"prompt_token_ids": [2, 60]}] * 64
        answers = engine.generate(prompts, SamplingParams(max_tokens=16, ignore_eos=True), use_tqdm=False)
        return [token for answer in answers for token in answer.outputs[0].token_ids]

    assert max(sampled()) >= VOCABULARY
    engine.collective_rpc("monkey_patch_model", kwargs={"vocab_size": VOCABULARY})  # veRL does so at the start
    assert len(masked := sampled()) == 64 * 16 and max(masked) < VOCABULARY


def test_a_sync_that_could_not_work_is_refused_when_the_engine_starts() -> None:
    """Otherwise the trainer would wait for ever."""
    from vllm.model_executor.layers.linear import LinearBase

    from experiments.verl_plugin.rollout.vllm_worker import CPUWorkerExtension

    layer = LinearBase.__new__(LinearBase)
    torch.nn.Module.__init__(layer)
    layer.weight = torch.nn.Parameter(torch.empty(0))
    worker = object.__new__(CPUWorkerExtension)
    worker.model_runner = SimpleNamespace(model=torch.nn.Sequential(layer))
    with pytest.raises(RuntimeError, match=r"must keep their weights .* but 0 has dropped its own"):
        worker.monkey_patch_model(VOCABULARY)


@pytest.mark.parametrize(("asked", "fails"), [(None, False), (512, False), (513, True)])
def test_a_length_beyond_the_model_s_positions(asked: int | None, fails: bool) -> None:
    """veRL's server refuses at its start what preflight refuses."""
    from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

    server = object.__new__(vLLMHttpServer)
    server.model_config = SimpleNamespace(hf_config=SimpleNamespace(max_position_embeddings=512))
    server.config = SimpleNamespace(max_model_len=asked, enable_chunked_prefill=False, max_num_batched_tokens=100)
    if fails:
        with pytest.raises(ValueError, match=r"max_model_len \(513\) should be less than or equal to max_position_emb"):
            server._validate_configs()
    else:
        server._validate_configs()
        assert server.config.max_model_len == server.config.max_num_batched_tokens == 512


# vLLM's own configs refuse what preflight refuses, but only when the engine starts.

ROLLOUT = "actor_rollout_ref.rollout"


@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (4, 2), (6, 2), (16, 2), (28, 4)])
@pytest.mark.parametrize("tensor", [2, 3, 4, 8])
def test_heads_split_over_the_gpus_of_an_engine(model: Path, heads: int, groups: int, tensor: int) -> None:
    from vllm.config import ModelConfig

    def verified() -> bool:
        config = ModelConfig(str(model), dtype="float32")
        config.model_arch_config.total_num_attention_heads = heads
        whole = SimpleNamespace(enable_expert_parallel=False, pipeline_parallel_size=1, decode_context_parallel_size=1)
        whole.tensor_parallel_size = tensor
        try:
            config.verify_with_parallel_config(whole)
        except ValueError as error:
            assert "must be divisible by tensor parallel size" in str(error)
            return False
        # The model's layers assert the rest, in Qwen2Attention.__init__.
        return (groups % tensor if groups >= tensor else tensor % groups) == 0

    sizes = {"tensor_model_parallel_size": tensor, "data_parallel_size": 1, "pipeline_model_parallel_size": 1}
    config = {"actor_rollout_ref": {"rollout": sizes}, "trainer": {"nnodes": 1, "n_gpus_per_node": 24}}
    assert (rollout_problems(config, Shape(64, 64, 2, heads, groups, 128, True)) == []) == verified()


@pytest.mark.parametrize("tokens", [1023, 1024])
def test_no_fewer_tokens_than_sequences(tokens: int) -> None:
    from vllm.config import SchedulerConfig

    def scheduler() -> Any:
        return SchedulerConfig(
            max_num_batched_tokens=tokens, max_num_seqs=1024, max_model_len=512, is_encoder_decoder=False
        )

    rollout = {"name": "vllm", "max_model_len": None, "enable_chunked_prefill": True}
    rollout |= {"max_num_batched_tokens": tokens, "max_num_seqs": 1024}
    data = {"max_prompt_length": 256, "max_response_length": 256}
    if length_problems({"actor_rollout_ref": {"rollout": rollout}, "data": data}, 512):
        with pytest.raises(ValueError, match="greater than or equal to max_num_seqs"):
            scheduler()
    else:
        scheduler()


@pytest.mark.parametrize("share", [0, -0.5, 1.5, 1, 0.1])
def test_a_share_of_the_memory(share: float) -> None:
    from vllm.config import CacheConfig

    (rule,) = (rule for rule in RULES if rule.key == f"{ROLLOUT}.gpu_memory_utilization")
    if rule.fits(share):
        CacheConfig(gpu_memory_utilization=share)
    else:
        with pytest.raises(ValueError, match="gpu_memory_utilization"):
            CacheConfig(gpu_memory_utilization=share)


def test_the_sizes_of_a_head_are_those_of_vllm() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert list(HEADS) == CPUAttentionBackend.get_supported_head_sizes()


def test_an_evaluation_s_answers_do_not_depend_on_what_is_asked_beside_them(engine: Any) -> None:
    from experiments.trained.policy import Asked, VLLMEngine
    from experiments.trained.sampling import Sampling

    own = object.__new__(VLLMEngine)  # around the engine that is there: another one takes a minute to start
    own.engine = engine
    sampling = Sampling(temperature=1.0, top_k=-1, top_p=1.0, length=32)
    asked = [Asked((2, 60), problem, sample) for problem in range(4) for sample in range(4)]
    together = own.answer(asked, sampling)
    assert len({tuple(answer) for answer in together}) > 8, "they differ from each other"
    assert own.answer(asked[5:7], sampling) == together[5:7]
    assert len({tuple(answer) for answer in own.answer(asked, sampling.greedy())}) == 1
