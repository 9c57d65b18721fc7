"""Test experiments/verl_plugin/rollout/server.py: what the server takes from veRL's config."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from omegaconf import OmegaConf
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl.utils.config import omega_conf_to_dataclass

from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin.rollout import replica as replica_module
from experiments.verl_plugin.rollout import server as server_module
from experiments.verl_plugin.rollout.replica import HFRolloutReplica, HFServerAdapter, start_early
from experiments.verl_plugin.rollout.server import HFRolloutServer

SAMPLING = {"temperature": 1.0, "logprobs": True}


@pytest.fixture
def make_server(resolved: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(server_module, "get_device_name", lambda: "cpu")
    config = resolved()["actor_rollout_ref"]

    def make(**changes: Any) -> HFRolloutServer:
        torch.manual_seed(0)
        model = changes.pop("model", config["model"])
        parts = {**config["rollout"], **changes}
        return HFRolloutServer(OmegaConf.create(parts), OmegaConf.create(model), replica_rank=0)

    return make


async def lengths(server: HFRolloutServer, count: int) -> list[int]:
    """Return the lengths of responses that were asked for at once."""
    outputs = await asyncio.gather(*(server.generate([2, 40, 3], SAMPLING, str(i)) for i in range(count)))
    assert all(len(output.token_ids) == len(output.log_probs) for output in outputs)
    return [len(output.token_ids) for output in outputs]


def test_responses_end_with_eos_unless_told_to_ignore_it(make_server: Any) -> None:
    ends = asyncio.run(lengths(make_server(response_length=96), 48))
    assert min(ends) < 96, "one in a hundred tokens of a random model is the end"
    assert asyncio.run(lengths(make_server(response_length=96, ignore_eos=True), 48)) == [96] * 48


OTHER_END = 20  # generation_config's; the tokenizer's is another, as in Qwen2.5's base models


@pytest.fixture
def other_end(resolved: Any, tmp_path: Path) -> dict[str, Any]:
    """Return the config of a tiny model whose generation_config names another end than the tokenizer."""
    folder = tmp_path / "model"
    shutil.copytree(WEIGHTS, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": OTHER_END}))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert tokenizer["eos_token"] != AutoTokenizer.from_pretrained(WEIGHTS).convert_ids_to_tokens(OTHER_END)
    return {**resolved()["actor_rollout_ref"]["model"], "path": str(folder)}


@pytest.mark.parametrize("named", [OTHER_END, [OTHER_END, 21], [1, OTHER_END]])
def test_the_ends_are_generation_config_s_and_the_tokenizer_s(other_end: dict[str, Any], named: Any) -> None:
    file = Path(other_end["path"]) / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": named, "pad_token_id": 2}))
    model_config = omega_conf_to_dataclass(OmegaConf.create(other_end))
    assert model_config.tokenizer.eos_token_id == 1
    pad, ends = server_module.stop_tokens(model_config)
    assert ends == {1, *(named if isinstance(named, list) else [named])}
    assert pad == 2, "generation_config's, which is not the tokenizer's"


def test_a_response_stops_at_generation_config_s_end(make_server: Any, other_end: dict[str, Any]) -> None:
    """For single requests, as veRL's agent loop sends them, and for a batch: the end comes last, then padding."""
    server = make_server(model=other_end, response_length=96)
    ends = {1, OTHER_END}

    async def ask(count: int) -> list[Any]:
        return await asyncio.gather(*(server.generate([2, 40, 3], SAMPLING, str(i)) for i in range(count)))

    responses = [output.token_ids for output in asyncio.run(ask(64))]
    ids, _, lengths, _ = asyncio.run(server.generate_batch([[2, 40, 3]] * 4, 16, [1.0] * 4, -1, 1.0))
    batch = [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]
    for some in (responses, batch):
        stopped = [response for response in some if len(response) < 96]
        assert all(response[-1] in ends for response in stopped)
        assert not any(ends & set(response[:-1]) for response in some), "nothing is sampled after an end"
        assert {response[-1] for response in stopped} == ends, "either of them ends some"


@pytest.mark.parametrize("pad", [0, 1, 40])
def test_padding_on_veRL_s_path_is_masked_whatever_it_is_padded_with(pad: int) -> None:
    """veRL's agent loop pads with the tokenizer's pad id; it may be the end or any other token without a difference."""
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    worker: Any = SimpleNamespace(tokenizer=tokenizer)
    padded = AgentLoopWorker._pad_token_ids(
        worker, [40, 3, 1], max_length=6, padding_side="right", return_attention_mask=True
    )
    assert padded["input_ids"].tolist() == [[40, 3, 1, pad, pad, pad]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]], "the response's own tokens count, the end too"


@pytest.mark.parametrize("name, dtype", [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_weights_have_the_config_s_precision(make_server: Any, name: str, dtype: torch.dtype) -> None:
    """This holds in the server and on the way to it."""
    server = make_server(dtype=name, response_length=8)
    assert {parameter.dtype for parameter in server.model.parameters()} == {dtype}
    sent = {key: torch.full_like(value, 0.125) for key, value in server.model.state_dict().items()}
    asyncio.run(server.update_weights(sent, global_steps=3))
    assert server.global_steps == 3
    assert all(bool((parameter == 0.125).all()) for parameter in server.model.parameters())
    assert asyncio.run(lengths(server, 2))


def test_our_sampler_says_what_it_is_not_made_for(make_server: Any) -> None:
    server = make_server(dtype="bfloat16", response_length=4)
    with pytest.raises(ValueError, match=r"hardware\.fast must be false for a qwen2 model in bfloat16"):
        asyncio.run(server.generate_batch([[2, 40, 3]], 2, [1.0], -1, 1.0))


def test_the_adapter_sends_weights_in_the_rollout_s_precision(resolved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Server:
        class update_weights:  # called as a Ray actor is
            @staticmethod
            async def remote(weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
                sent.update(weights, global_steps=global_steps)

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(replica_module.ray, "get_actor", lambda name: Server)
    config = omega_conf_to_dataclass(
        OmegaConf.create({**resolved()["actor_rollout_ref"]["rollout"], "dtype": "bfloat16"})
    )
    weight = torch.tensor([1.0, 0.1])
    adapter = HFServerAdapter(config, None, None)
    asyncio.run(adapter.update_weights(iter([("w", weight)]), global_steps=2))
    assert sent["global_steps"] == 2
    assert sent["w"].dtype == torch.bfloat16 and sent["w"].tolist() == weight.bfloat16().tolist()


def test_a_replica_s_server_gets_the_device_of_its_worker(resolved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has two pretended devices: a server's process is told the one that CUDA would have to find."""

    @ray.remote(num_gpus=1, num_cpus=0)
    class Worker: ...

    class Server:
        def __init__(self, *arguments: Any) -> None: ...

        async def ready(self) -> str:
            return os.environ["CUDA_VISIBLE_DEVICES"]

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(replica_module, "HFRolloutServer", Server)
    monkeypatch.setattr(replica_module, "get_platform", PlatformCUDA)
    config = omega_conf_to_dataclass(OmegaConf.create(resolved()["actor_rollout_ref"]["rollout"]))
    folder = tempfile.mkdtemp(dir="/tmp")
    ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, _temp_dir=folder)
    try:
        first = Worker.remote()
        ray.get(first.__ray_ready__.remote())  # has device 0
        second = Worker.remote()
        replica = HFRolloutReplica(1, config, None, gpus_per_node=2)
        replica.workers = [second]
        asyncio.run(replica.launch_servers())
        assert ray.get(replica.servers[0].ready.remote()) == "1"
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class Handle:
    """An actor's handle that answers at once."""

    class ready:
        @staticmethod
        async def remote() -> int:
            return 1


def test_a_server_that_was_started_early_is_the_one_that_serves(resolved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a CPU run on one node starts servers early, one for each rank: elsewhere the workers' place is unknown."""
    config, started = OmegaConf.create(resolved()), []

    def start(self: HFRolloutReplica, node: str, device: str) -> Any:
        started.append((self.replica_rank, node))
        return Handle

    monkeypatch.setattr(HFRolloutReplica, "start", start)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    for key, value in (("trainer.nnodes", 2), ("trainer.device", "cuda"), ("actor_rollout_ref.rollout.name", "vllm")):
        other = config.copy()
        OmegaConf.update(other, key, value)
        assert start_early(other) == []
    assert started == []
    config.trainer.n_gpus_per_node = 2
    assert start_early(config) == [Handle, Handle]
    assert started == [(0, "here"), (1, "here")]
    monkeypatch.setattr(ray, "get_actor", lambda name: Handle)
    for rank in (0, 1):
        model = config.actor_rollout_ref
        replica = HFRolloutReplica(rank, model.rollout, model.model, gpus_per_node=2)
        asyncio.run(replica.launch_servers())
        assert replica.servers == [Handle]
    assert len(started) == 2
