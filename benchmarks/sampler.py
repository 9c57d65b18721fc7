"""Sampling alone: our Qwen2Sampler and transformers' `generate`, in turns. `python -m benchmarks.sampler FOLDER ROUNDS`

Both get the same rows: 32 prompts, 4 responses each, RESPONSE_LENGTH tokens. Ours returns log-probs as well, which RL
needs and `generate` is not asked for. One row of times in seconds is written a round.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.setting import PROMPTS, RESPONSE_LENGTH, SEED, TEMPERATURE, N
from experiments.verl_plugin.sampler import Qwen2Sampler
from experiments.verl_plugin.sampling import Draw


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    prompts = tokenizer(json.loads((folder / "prompts.json").read_text())[:PROMPTS])["input_ids"]
    ids = torch.tensor(prompts).repeat_interleave(N, 0)
    sampler = Qwen2Sampler(model)
    rows = len(ids)

    def ours() -> int:
        draw = Draw(
            torch.full((rows,), TEMPERATURE),
            torch.full((rows,), -1),
            torch.ones(rows),
            torch.rand(rows, RESPONSE_LENGTH, dtype=torch.float64),
        )
        return int(sampler.generate(prompts, N, draw, RESPONSE_LENGTH, {tokenizer.eos_token_id})[2].sum())

    def transformers() -> int:
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=RESPONSE_LENGTH)
        return made[:, ids.size(1) :].numel()

    with open(folder / "sampler.jsonl", "w", buffering=1) as file:
        for number in range(rounds + 1):
            row: dict[str, float] = {}
            for name, sample in (("ours", ours), ("transformers", transformers)):
                start = time.perf_counter()
                tokens = sample()
                row[name] = time.perf_counter() - start
                if tokens != rows * RESPONSE_LENGTH:
                    raise RuntimeError(f"{name} made {tokens} tokens, where {rows * RESPONSE_LENGTH} were asked for")
            if number:  # the first round warms up
                file.write(json.dumps({"step": number, "data": row}) + "\n")


if __name__ == "__main__":
    main()
