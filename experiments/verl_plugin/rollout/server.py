"""rollout.name=hf: a rollout server on transformers, used in vLLM's place on a CPU and on GPUs without vLLM.

The server is a Ray actor that has its own copy of the policy. replica.py starts it and sends it new weights.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_device_name
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.rollout.replica import TokenOutput

from experiments.verl_plugin.rollout.draw import Draw, NoiseStream
from experiments.verl_plugin.threads import use_cores

BURST_SECONDS = 0.02  # the requests of one step arrive together: wait so long for the next one


def server_name(replica_rank: int) -> str:
    """Return the Ray actor name of a replica's server (unique within a job's namespace)."""
    return f"hf_rollout_server_{replica_rank}"


class HFRolloutServer:
    """Token ids in, token ids out. Requests that arrive together are generated as one batch."""

    def __init__(self, config: Any, model_config: Any, replica_rank: int) -> None:
        from transformers import AutoModelForCausalLM

        from experiments.verl_plugin import attention  # noqa: F401  registers packed_sdpa before the model is built

        self.config = omega_conf_to_dataclass(config)
        self.model_config = omega_conf_to_dataclass(model_config)
        # Decoding has one token per row, so packed attention would have nothing to pack.
        self.model = AutoModelForCausalLM.from_config(
            self.model_config.hf_config, attn_implementation="sdpa", dtype=PrecisionType.to_dtype(self.config.dtype)
        )
        self.model = self.model.eval().to(get_device_name())  # the server sees one device only
        self.pad, self.eos = stop_tokens(self.model_config)
        if self.config.ignore_eos:
            self.eos = set()
        self.vocabulary = len(self.model_config.tokenizer)
        self.replica_rank = replica_rank
        self.sampler: Any = None
        self.global_steps = 0
        self._restart_noise()
        self.waiting: list[tuple[dict[str, Any], asyncio.Future]] = []
        self.batching: asyncio.Task | None = None

    def _restart_noise(self) -> None:
        # veRL's own agent loop sends single requests. Those for one prompt may reach several replicas, so each replica
        # has its own streams. Our batched loop sends all n requests for a prompt to one replica, so these samples do
        # not depend on the number of replicas. With one replica both loops draw the same samples. With several they
        # draw different samples of the same distribution, though the run's identity is the same: a replica can't know
        # which of the n requests it got.
        self.noise = NoiseStream(self.config.seed, self.replica_rank, self.global_steps)
        self.batch_noise = NoiseStream(self.config.seed, 0, self.global_steps)

    async def ready(self) -> int:
        """Return the server's process id once it can answer."""
        return os.getpid()

    async def generate(
        self, prompt_ids: Sequence[int], sampling_params: dict[str, Any], request_id: str, **kwargs: Any
    ) -> TokenOutput:
        """Return one response to one prompt, with its log-probs if sampling_params asks for them."""
        longest = self.config.max_model_len or self.config.prompt_length + self.config.response_length
        wanted = sampling_params.get("max_tokens") or self.config.response_length
        limit = max(1, min(wanted, longest - len(prompt_ids)))
        temperature = float(sampling_params.get("temperature", 1.0))
        request = {
            "prompt": list(prompt_ids),
            "limit": limit,
            "temperature": temperature,
            "top_k": int(sampling_params.get("top_k", -1)),
            "top_p": float(sampling_params.get("top_p", 1.0)),
            "noise": self.noise.next(prompt_ids, temperature, limit),
        }
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        if self.batching is None or self.batching.done():
            self.batching = asyncio.create_task(self._serve())
        ids, log_probs = await future
        return TokenOutput(
            token_ids=ids,
            log_probs=log_probs if sampling_params.get("logprobs") else None,
            stop_reason="completed",
            num_preempted=0,
            extra_fields={"global_steps": self.global_steps},
        )

    async def _serve(self) -> None:
        """Generate the waiting requests, batch after batch, until none waits."""
        from experiments.verl_plugin.rollout.generate_any import generate

        while self.waiting:
            seen = -1
            while seen != len(self.waiting):
                seen = len(self.waiting)
                await asyncio.sleep(BURST_SECONDS)
            size = self.config.max_num_seqs
            batch, self.waiting = self.waiting[:size], self.waiting[size:]
            requests = [request for request, _ in batch]
            longest = max(request["limit"] for request in requests)
            noise = np.zeros((len(requests), longest))
            for row, request in enumerate(requests):
                noise[row, : request["limit"]] = request["noise"]
            draw = Draw(
                torch.tensor([request["temperature"] for request in requests]),
                torch.tensor([request["top_k"] for request in requests]),
                torch.tensor([request["top_p"] for request in requests]),
                torch.from_numpy(noise),
                self.vocabulary,
            )
            try:
                results = await asyncio.to_thread(
                    generate,
                    self.model,
                    [request["prompt"] for request in requests],
                    draw,
                    [request["limit"] for request in requests],
                    self.eos,
                    self.pad,
                )
            except Exception as error:  # each request of the batch gets it; the server lives on
                for _, future in batch:
                    future.set_exception(error)
                continue
            for (_, future), ids, log_probs in zip(batch, *results, strict=True):
                future.set_result((ids, log_probs))

    async def generate_batch(
        self, prompts: Sequence[Sequence[int]], n: int, temperatures: Sequence[float], top_k: int, top_p: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Return n responses per prompt at once: ids, log-probs (P * n, T), lengths (P * n,), the weights' version.

        `temperatures` has one entry per prompt. With one replica the samples are those of n single requests per prompt.
        """
        from experiments.verl_plugin.rollout.generate_qwen2 import Qwen2Sampler

        use_cores()
        if self.sampler is None:
            if not Qwen2Sampler.supports(self.model):
                kind = self.model.config.model_type
                raise ValueError(
                    f"hardware.fast must be false for a {kind} model in {self.config.dtype}: "
                    "its sampler knows plain Qwen2 in float32 only"
                )
            self.sampler = Qwen2Sampler(self.model)
        longest = self.config.response_length
        noise = [
            self.batch_noise.next(prompt, temperature, longest)
            for prompt, temperature in zip(prompts, temperatures, strict=True)
            for _ in range(n)
        ]
        rows = len(noise)
        draw = Draw(
            torch.tensor(temperatures).repeat_interleave(n),
            torch.full((rows,), top_k),
            torch.full((rows,), float(top_p)),
            torch.from_numpy(np.stack(noise)),
            self.vocabulary,
        )
        ids, log_probs, lengths = self.sampler.generate(prompts, n, draw, longest, self.eos)
        ids, log_probs, lengths = (result.cpu().clone() for result in (ids, log_probs, lengths))
        return ids, log_probs, lengths, self.global_steps

    async def update_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None = None) -> None:
        """Take over the policy's weights; a new version starts the noise streams afresh."""
        tied = self.model.config.tie_word_embeddings
        self.model.load_state_dict(weights, strict=not tied)
        if tied:
            self.model.tie_weights()
        if self.sampler is not None:
            self.sampler.refresh()
        if global_steps is not None:
            self.global_steps = int(global_steps)
        self._restart_noise()

    # veRL calls these on every rollout server. This one keeps its weights and frees its cache after each batch.
    async def wake_up(self, *args: Any, **kwargs: Any) -> None: ...
    async def sleep(self, *args: Any, **kwargs: Any) -> None: ...
    async def clear_kv_cache(self) -> None: ...
    async def release_kv_cache(self) -> None: ...
    async def resume_kv_cache(self) -> None: ...
    async def abort_all_requests(self, *args: Any, **kwargs: Any) -> None: ...
    async def resume_generation(self) -> None: ...
    async def start_profile(self, **kwargs: Any) -> None: ...
    async def stop_profile(self) -> None: ...


def stop_tokens(model_config: Any) -> tuple[int, set[int]]:
    """Return (pad id, the ids that end a response).

    Qwen2.5 base models name one EOS in the tokenizer and another in generation_config. A rollout that knows only the
    first runs every response to its limit, so here both end a response. The pad id is generation_config's, else the
    tokenizer's, else the smallest id that ends a response.
    """
    generation = model_config.generation_config
    named = getattr(generation, "eos_token_id", None)
    named = [*named] if isinstance(named, (list, tuple)) else [named]
    ends = {int(token) for token in (*named, model_config.tokenizer.eos_token_id) if token is not None}
    pads = (getattr(generation, "pad_token_id", None), model_config.tokenizer.pad_token_id, min(ends))
    return next(int(pad) for pad in pads if pad is not None), ends
