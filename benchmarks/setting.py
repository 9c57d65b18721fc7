"""The one setting in which all competitors of benchmarks/step.py train: sizes, weights, prompts, reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROMPTS = 32  # a step
N = 4  # responses a prompt
RESPONSE_LENGTH = 64
KL = 0.001
LR = 2e-4
TEMPERATURE = 1.0
SEED = 0


def build(folder: Path, steps: int) -> None:
    """Write model/ (weights and tokenizer), train.parquet and prompts.json into the folder.

    The model is a Qwen2 of 0.6M parameters with random weights, except that it never ends a response, so that all
    competitors generate RESPONSE_LENGTH tokens a response: channel 0 of the residual stream is 1 for every token, no
    layer writes to it, and the logits of the end and the padding token count it negatively (-11, all others +11).
    """
    import pyarrow.parquet
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    from experiments.tasks.countdown import dataset as countdown
    from experiments.tasks.dataset import prepare
    from experiments.tiny_model import WEIGHTS

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    torch.manual_seed(SEED)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model: Any = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=256,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            dtype="float32",
            **special,
        )
    )
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = 1.0
        embedding[[tokenizer.eos_token_id, tokenizer.pad_token_id], 0] = -1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
    model.generation_config = GenerationConfig(do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0, **special)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")

    arguments = {"source": "generated", "space": "miniature", "template": "compact", "data_seed": SEED}
    sizes = {"train_size": PROMPTS * steps, "test_size": 1}
    data = prepare(Path(countdown.__file__), "countdown", {**arguments, **sizes}, folder)
    data.train.rename(folder / "train.parquet")
    data.test.rename(folder / "test.parquet")
    chats = pyarrow.parquet.read_table(folder / "train.parquet", columns=["prompt"])["prompt"].to_pylist()
    (folder / "prompts.json").write_text(json.dumps([chat[0]["content"] for chat in chats]))


def digit_share(text: str) -> float:
    """The reward: how large a part of the response's characters are digits (0 to 1); random models differ in it."""
    return sum(character.isdigit() for character in text) / max(1, len(text))


def compute_score(data_source: str, solution_str: str, ground_truth: Any, **kwargs: Any) -> dict[str, float]:
    """The same, in the form that veRL asks for (reward.custom_reward_function)."""
    return {"score": digit_share(solution_str)}
