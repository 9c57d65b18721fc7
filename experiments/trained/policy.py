"""A checkpoint, or the base model, as a sampler: our own on transformers, or vLLM where the run has it.

Imports torch and veRL.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch

from experiments.errors import UserError
from experiments.models import hub
from experiments.store import checkpoints
from experiments.store.rundir import RunDir
from experiments.trained.merge import merge
from experiments.trained.problems import Problem
from experiments.trained.sampling import Sampling
from experiments.values import at
from experiments.variables import CORES
from experiments.verl_plugin.rollout.draw import Draw, NoiseStream
from experiments.verl_plugin.rollout.generate_any import generate
from experiments.verl_plugin.rollout.generate_qwen2 import Qwen2Sampler
from experiments.verl_plugin.rollout.server import stop_tokens


@dataclass(frozen=True)
class Asked:
    """One response that is wanted: to which prompt, and which of the prompt's responses it is."""

    prompt: tuple[int, ...]
    problem: int
    sample: int


class Engine(Protocol):
    """Answers prompts. A response depends on (seed, problem, sample) alone, never on what is asked beside it."""

    together: int
    """How many responses are best asked for at a time: a kill loses them, and fewer take longer."""

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[int]]:
        """Return the token ids of each response; its end is among them if it came before the limit."""


class Policy:
    """A tokenizer and an engine."""

    def __init__(self, config: Mapping[str, Any], folder: Path, engine: Engine) -> None:
        from transformers import AutoTokenizer

        self.config, self.engine = config, engine
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        template = at(config, "actor_rollout_ref.model.custom_chat_template")
        if template:
            self.tokenizer.chat_template = template

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """Return a problem's token ids; UserError if they are more than the model was trained on."""
        options = at(self.config, "data.apply_chat_template_kwargs") or {}
        text = self.tokenizer.apply_chat_template(
            list(problem.messages), add_generation_prompt=True, tokenize=False, **options
        )
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        most = int(at(self.config, "data.max_prompt_length"))
        if not 0 < len(ids) <= most:
            raise UserError(
                f"a prompt must have 1 to data.max_prompt_length={most} tokens, but that of problem {problem.index} "
                f"has {len(ids)}; shorten it or leave it out"
            )
        return tuple(ids)

    def seen(self, prompt: Sequence[int]) -> str:
        """Return what the model reads of a prompt: a tokenizer may drop what its vocabulary lacks."""
        return self.tokenizer.decode(list(prompt))

    def texts(self, asked: Sequence[Asked], sampling: Sampling) -> list[tuple[str, int]]:
        """Return (the text without special tokens, how many tokens it has) of each response."""
        rows = self.engine.answer(asked, sampling)
        return [(self.tokenizer.decode(row, skip_special_tokens=True), len(row)) for row in rows]


class OwnEngine:
    """The sampler that hardware=cpu trains with, on a GPU if there is one."""

    together = 256

    def __init__(self, folder: Path, dtype: str, vocabulary: int, eos: set[int], pad: int) -> None:
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        self.model = model.eval().to(device)
        self.vocabulary, self.eos, self.pad = vocabulary, eos, pad
        self.fast = Qwen2Sampler(self.model) if Qwen2Sampler.supports(self.model) else None

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[int]]:
        rows, longest = len(asked), sampling.length
        noise = [
            NoiseStream(sampling.seed, one.problem, one.sample).next(one.prompt, sampling.temperature, longest)
            for one in asked
        ]
        draw = Draw(
            torch.full((rows,), sampling.temperature),
            torch.full((rows,), sampling.top_k),
            torch.full((rows,), sampling.top_p),
            torch.from_numpy(np.stack(noise)),
            self.vocabulary,
        )
        prompts = [one.prompt for one in asked]
        if self.fast is None:
            return generate(self.model, prompts, draw, [longest] * rows, self.eos, self.pad)[0]
        distinct, n = list(dict.fromkeys(prompts)), 1
        if prompts == [prompt for prompt in distinct for _ in range(rows // len(distinct))]:
            prompts, n = distinct, rows // len(distinct)  # each prompt is computed once for its n responses
        ids, _, lengths = self.fast.generate(prompts, n, draw, longest, self.eos)
        return [row[:length] for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]


class VLLMEngine:
    """vLLM, which veRL samples with on GPUs."""

    together = 4096

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        rollout = at(config, "actor_rollout_ref.rollout")
        own: dict[str, Any] = dict(at(rollout, "engine_kwargs.vllm") or {})
        if at(config, "trainer.device") == "cpu":
            from experiments.verl_plugin.lifecycle.platform import PlatformCPU

            os.environ.update(PlatformCPU().rollout_env_vars())
        own = {key: value for key, value in own.items() if key not in ("worker_extension_cls", "enable_sleep_mode")}
        from vllm import LLM

        self.engine = LLM(
            str(folder),
            dtype=rollout["dtype"],
            enforce_eager=bool(rollout["enforce_eager"]),
            tensor_parallel_size=int(rollout["tensor_model_parallel_size"]),
            gpu_memory_utilization=float(rollout["gpu_memory_utilization"]),
            max_model_len=int(at(config, "data.max_prompt_length")) + int(at(config, "data.max_response_length")),
            **own,
        )

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[list[int]]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                max_tokens=sampling.length,
                seed=zlib.crc32(repr((sampling.seed, one.problem, one.sample)).encode()),
            )
            for one in asked
        ]
        prompts: Any = [{"prompt_token_ids": list(one.prompt)} for one in asked]
        outputs = self.engine.generate(prompts, parameters, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def uses_vllm(config: Mapping[str, Any]) -> bool:
    """Return whether the run samples with vLLM, and this machine can."""
    if at(config, "actor_rollout_ref.rollout.name") != "vllm" or importlib.util.find_spec("vllm") is None:
        return False
    return at(config, "trainer.device") == "cpu" or torch.cuda.is_available()


@contextmanager
def opened(run: RunDir, config: Mapping[str, Any], step: int) -> Iterator[Policy]:
    """Give the policy of a step's checkpoint; 0: of the base model. It is merged into a folder that goes with it."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_threads(config))
    with tempfile.TemporaryDirectory(prefix="r1z-model-") as scratch:
        folder = Path(scratch)
        if step:
            merge(checkpoints.folder(run.checkpoints, step) / "actor", folder)
        else:
            folder = _base(str(at(config, "actor_rollout_ref.model.path")))
        yield Policy(config, folder, _engine(config, folder))


def _threads(config: Mapping[str, Any]) -> int:
    """Return how many threads to compute with: the run's, on the cores that are free.

    The threads of a small model wait for each other thousands of times a second. Where other programs have the cores,
    two took fifty times as long as one.
    """
    cores = int(os.environ.get(CORES) or os.cpu_count() or 1)
    free = cores - os.getloadavg()[0]
    return max(1, min(int(at(config, "hardware.threads") or cores), int(free)))


def _engine(config: Mapping[str, Any], folder: Path) -> Engine:
    if uses_vllm(config):
        return VLLMEngine(folder, config)
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").is_file() else None
    pad, eos = stop_tokens(SimpleNamespace(generation_config=generation, tokenizer=tokenizer))
    dtype = str(at(config, "actor_rollout_ref.rollout.dtype") or "float32")
    return OwnEngine(folder, dtype, len(tokenizer), eos, pad)


def _base(path: str) -> Path:
    """Return the folder of model.path; UserError if it is no longer there."""
    found = hub.find(path)
    if found is None:
        do = f"fetch it (hf download {path})" if path.count("/") == 1 else "put it back"
        raise UserError(f"the base model must be in {path}, but is not there; {do}")
    return found
