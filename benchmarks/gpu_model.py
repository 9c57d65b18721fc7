"""Build models of Qwen2.5's shapes with random weights, for GPU machines that can't reach the hub.

    python -m benchmarks.gpu_model NAME FOLDER [model.shape.hidden_size=896 ...]

Compute and memory are those of the real model; what it writes is noise, so every response is run to its limit. The
tokenizer is a byte-level BPE trained on the prompts, small enough that a prompt takes about as many tokens as with the
real one. Its vocabulary is filled up to the model's, since rollout engines draw no id without a token: where a random
model has ids without one, it would give them as much probability as any other, and the trainer counts them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOCABULARY = 700  # tokens of the trained tokenizer; the embedding has the real model's rows
PROMPTS = 400  # generated problems that it is trained on
END, PAD = "<|im_end|>", "<|endoftext|>"
SEED = 0


def prompts() -> list[str]:
    """Return prompts of the article's task, as its base model gets them."""
    from experiments.tasks.countdown.problems import ARTICLE, generate
    from experiments.tasks.countdown.prompts import render

    return [render("base", problem)[0]["content"] for problem in generate(ARTICLE, PROMPTS, SEED)]


def build(folder: Path, shape: dict[str, Any], texts: Iterable[str], seed: int = SEED) -> int:
    """Write a model of this shape (names of config.json) and a tokenizer into a folder; return its parameters."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    blank = Qwen2Tokenizer(vocab=alphabet, merges=[], unk_token=None, eos_token=END, pad_token=PAD)  # type: ignore[arg-type]
    tokenizer = blank.train_new_from_iterator(texts, VOCABULARY, show_progress=False)
    tokenizer.save_pretrained(folder)
    fill_vocabulary(folder / "tokenizer.json", int(shape["vocab_size"]))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(seed)
    config = Qwen2Config(**shape, dtype="bfloat16", **ends)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    return int(model.num_parameters())


def fill_vocabulary(file: Path, size: int) -> None:
    """Give every id below `size` a token. No merge makes the added ones, so texts are cut into tokens as before."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    for index in range(len(vocabulary), size):
        vocabulary[f"{index:06x}"] = index  # some digits, some letters: the reward tells such tokens apart
    file.write_text(json.dumps(content, ensure_ascii=False))


def main() -> None:
    """Build the model that the command names."""
    from experiments.config.compose import compose_config, plain

    name, folder, *overrides = sys.argv[1:]
    shape = plain(compose_config([f"model={name}", *overrides]).model.shape)
    build(Path(folder), shape, prompts())


if __name__ == "__main__":
    main()
