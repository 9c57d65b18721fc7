"""Sampling alone: our Qwen2Sampler and transformers' `generate`, in turns. `python -m benchmarks.sampler FOLDER ROUNDS`

Both get the same 32 prompts, 4 responses each. Two models: the setting's, whose responses all run to RESPONSE_LENGTH
tokens, and the tiny base model that is shipped, whose responses end by themselves (at TINY_LENGTH tokens at the latest,
as in training) while the others go on. Ours returns log-probs as well, which RL needs and `generate` is not asked for.
Each round writes one row of times in seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.setting import PROMPTS, RESPONSE_LENGTH, SEED, TEMPERATURE, N
from experiments.tiny_model import WEIGHTS
from experiments.verl_plugin.rollout.draw import Draw
from experiments.verl_plugin.rollout.generate_qwen2 import Qwen2Sampler

TINY_LENGTH = 128


def samplers(model: Any, prompts: Sequence[Sequence[int]], eos: int, length: int) -> Iterator[tuple[str, Callable]]:
    """Yield (name, function that samples once and returns how many tokens it made)."""
    ids = torch.tensor(prompts).repeat_interleave(N, 0)
    rows = len(ids)
    sampler = Qwen2Sampler(model)

    def ours() -> int:
        noise = torch.rand(rows, length, dtype=torch.float64)
        draw = Draw(torch.full((rows,), TEMPERATURE), torch.full((rows,), -1), torch.ones(rows), noise)
        return int(sampler.generate(prompts, N, draw, length, {eos})[2].sum())

    def transformers() -> int:
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            top_p=1.0,
            max_new_tokens=length,
        )[:, ids.size(1) :]
        return int(((made == eos).cumsum(1) - (made == eos).long() == 0).sum())

    yield "ours", ours
    yield "transformers", transformers


def load(path: Path, texts: Sequence[str], length: int) -> tuple[Any, list[list[int]], int, int]:
    """Return the arguments of `samplers` for a model's folder."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    return model, tokenizer(list(texts))["input_ids"], tokenizer.eos_token_id, length


def main() -> None:
    """Time all samplers in turns, and write one row per round to sampler.jsonl."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(SEED)
    texts = json.loads((folder / "prompts.json").read_text())[:PROMPTS]
    ways = [
        (f"{name} {model}", sample)
        for model, arguments in (
            ("full", load(folder / "model", texts, RESPONSE_LENGTH)),
            ("tiny", load(WEIGHTS, texts, TINY_LENGTH)),
        )
        for name, sample in samplers(*arguments)
    ]
    with open(folder / "sampler.jsonl", "w", buffering=1) as file:
        for number in range(rounds + 1):
            row: dict[str, float] = {}
            for name, sample in ways:
                start = time.perf_counter()
                tokens = sample()
                row[name] = time.perf_counter() - start
                row[f"{name} tokens"] = tokens
                if name.endswith("full") and tokens != PROMPTS * N * RESPONSE_LENGTH:
                    raise RuntimeError(f"{name} made {tokens} tokens, where it should have run to the limit")
            if number:  # the first round warms up
                file.write(json.dumps({"step": number, "data": row}) + "\n")


if __name__ == "__main__":
    main()
