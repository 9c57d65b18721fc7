"""Pre-train the tiny base model from nothing: `python -m experiments.tiny_model.pretrain --seed 0 --out DIR`."""

import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experiments.tiny_model import tokenizer as vocabulary  # first: it sets the thread pool of tokenizers
from experiments.tiny_model import traces

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

PROMPT_LENGTH = 9


@dataclass(frozen=True)
class Recipe:
    """How the shipped weights were trained."""

    steps: int = 1308
    batch: int = 64
    micro_batches: int = 4
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    warmup: int = 20
    last_lr: float = 0.05
    result_weight: float = 2.0
    texts_per_step: int = 32


RECIPE = Recipe()


def build(seed: int) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary.VOCAB_SIZE, hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=256, max_position_embeddings=512, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, use_sliding_window=False,
        bos_token_id=None, eos_token_id=1, pad_token_id=0, dtype="float32", attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            for m in (layer.self_attn.o_proj, layer.mlp.down_proj):
                m.weight /= (2 * config.num_hidden_layers) ** 0.5
    return model


def texts(seed, count, mixture=traces.MIXTURE):
    tk = vocabulary.build()
    rng = random.Random(seed)
    pr, re = [], []
    for _ in range(count):
        n, t = traces.draw(rng)
        pr.append(f"numbers {', '.join(map(str, n))} target {t} <think>")
        re.append(traces.trace(rng, n, t, mixture))
    return list(zip(tk(pr)["input_ids"], tk(re)["input_ids"]))


def train(model, data, seed, recipe=RECIPE, progress=lambda *a: None):
    rng = random.Random(seed)
    mats = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    opts = [torch.optim.Muon(mats, lr=recipe.matrix_lr, momentum=0.95, weight_decay=0.0),
            torch.optim.AdamW(rest, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0)]
    base = [recipe.matrix_lr, recipe.other_lr]
    equals = vocabulary.TOKENS.index(" =")
    params = list(model.parameters())
    def batches():
        while True:
            rng.shuffle(data)
            for i in range(0, len(data) - recipe.batch + 1, recipe.batch):
                yield data[i:i + recipe.batch]
    it = batches()
    for step in range(recipe.steps):
        for o, lr in zip(opts, base):
            o.param_groups[0]["lr"] = lr * min(1, (step + 1) / recipe.warmup) * (1 - (1 - recipe.last_lr) * step / recipe.steps)
        b = sorted(next(it), key=lambda x: len(x[1]))
        nt = sum(len(r) for _, r in b); tot = 0.0
        size = recipe.batch // recipe.micro_batches
        for j in range(0, len(b), size):
            mb = b[j:j + size]
            L = len(mb[-1][1])
            ids = torch.zeros(len(mb), PROMPT_LENGTH + L, dtype=torch.long)
            for i, (p, r) in enumerate(mb):
                ids[i, :PROMPT_LENGTH + len(r)] = torch.tensor(p + r)
            h = model.model(ids[:, :-1], use_cache=False).last_hidden_state[:, PROMPT_LENGTH - 1:]
            lg = model.lm_head(h); tg = ids[:, PROMPT_LENGTH:]
            loss = cross_entropy(lg.flatten(0, 1), tg.flatten(), reduction="none").view(tg.shape)
            w = (tg != 0).float() * (1 + (recipe.result_weight - 1) * (ids[:, PROMPT_LENGTH - 1:-1] == equals).float())
            loss = (loss * w).sum() / nt
            loss.backward(); tot += loss.item()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for o in opts: o.step(); o.zero_grad()
        progress(step, tot)
    return model
