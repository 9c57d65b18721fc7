"""Make the tiny base model from nothing: `python -m experiments.tiny_model.pretrain --seed 0 --out DIR`.

It takes 3 to 6 minutes on one core. The same seed gives the same weights on the same machine with the same torch.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from experiments.errors import UserError
from experiments.tiny_model import card, evaluation, tokenizer, traces

PAD_ID, EOS_ID, EQUALS_ID = (tokenizer.TOKENS.index(token) for token in (tokenizer.PAD, tokenizer.EOS, " ="))
VERDICT_IDS = torch.tensor([tokenizer.TOKENS.index(token) for token in (" not it,", " this works")])


@dataclass(frozen=True)
class Recipe:
    """How the shipped weights are trained. The steps are fixed, not the time, so that a seed means one model."""

    steps: int = 1300
    batch: int = 64
    micro_batches: int = 4
    """A batch is sorted by length and cut into these, which saves most of the padding."""
    muon_lr: float = 0.02
    """For the matrices. AdamW alone does not learn the arithmetic in this time."""
    adamw_lr: float = 0.01
    """For embedding, norms and biases."""
    warmup: int = 20
    last_lr: float = 0.05
    """The share of the learning rates that the linear decay ends at."""
    judgement_weight: float = 5.0
    """The weight in the loss of each result and of the verdict on it, "not it" or "this works"; other tokens have 1.
    Only these can be wrong, and they are few. With weight 1 the seed decides whether a model learns them in time."""


RECIPE = Recipe()


def build(seed: int) -> Qwen2ForCausalLM:
    """Return the untrained model: 317,664 parameters in 32-bit floats."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=tokenizer.VOCAB_SIZE,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=tokenizer.MAX_LENGTH,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        dtype="float32",
    )
    model = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa")
    # top_k 0: transformers would otherwise sample among the 50 likeliest tokens only.
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=EOS_ID, pad_token_id=PAD_ID
    )
    with torch.no_grad():
        for layer in model.model.layers:  # residual branches start small (GPT-2's initialization)
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight /= (2 * config.num_hidden_layers) ** 0.5
    return model


def batches(seed: int, recipe: Recipe, mixture: traces.Mixture) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield `recipe.steps` batches of (prompt ids, response ids), each sorted by the responses' lengths.

    Every training problem is equally likely, held-out problems never occur, and every trace is a new one.
    """
    rng = random.Random(seed)
    encode = tokenizer.build()
    for _ in range(recipe.steps):
        drawn = [traces.shuffled(rng, rng.choice(traces.training_problems())) for _ in range(recipe.batch)]
        prompts = encode([evaluation.prompt_of(problem) for problem in drawn])["input_ids"]
        responses = encode([traces.trace(rng, problem, mixture) for problem in drawn])["input_ids"]
        yield sorted(zip(prompts, responses, strict=True), key=lambda pair: len(pair[1]))


def train(
    model: Qwen2ForCausalLM,
    seed: int,
    recipe: Recipe = RECIPE,
    mixture: traces.Mixture = traces.MIXTURE,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train `model` in place; `progress` is told the step, from 1, and its loss per response token."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = {
        torch.optim.Muon(matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.0): recipe.muon_lr,
        torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0): recipe.adamw_lr,
    }
    model.train()
    for step, batch in enumerate(batches(seed, recipe, mixture)):
        tokens = sum(len(response) for _, response in batch)
        size = -(-recipe.batch // recipe.micro_batches)
        loss = 0.0
        for start in range(0, recipe.batch, size):
            part = _weighted_loss(model, batch[start : start + size], recipe.judgement_weight) / tokens
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min(1.0, (step + 1) / recipe.warmup) * (1 - (1 - recipe.last_lr) * step / recipe.steps)
        for optimizer, lr in optimizers.items():
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.step()
            optimizer.zero_grad()
        progress(step + 1, loss)
    model.eval()


def _weighted_loss(
    model: Qwen2ForCausalLM, pairs: list[tuple[list[int], list[int]]], judgement_weight: float
) -> torch.Tensor:
    """Return the weighted sum of the response tokens' losses. A response that was cut off has no end to learn."""
    prompt = len(pairs[0][0])  # all prompts have 9 tokens
    longest = max(len(response) for _, response in pairs)
    ids = torch.tensor([p + r + [PAD_ID] * (longest - len(r)) for p, r in pairs])
    inputs, targets = ids[:, prompt - 1 : -1], ids[:, prompt:]
    # No mask is needed: padding is on the right, where a causal model does not look.
    hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state[:, prompt - 1 :]
    losses = cross_entropy(model.lm_head(hidden).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    judgement = (inputs == EQUALS_ID) | torch.isin(targets, VERDICT_IDS)
    weights = torch.where(judgement, judgement_weight, 1.0) * (targets != PAD_ID)
    return (losses * weights).sum()


def rebuild(seed: int, out: Path, recipe: Recipe = RECIPE, mixture: traces.Mixture = traces.MIXTURE) -> None:
    """Pre-train, evaluate and write the Hugging Face folder `out`, with its card; an older one there is replaced.

    Raises:
        UserError: `out` holds something else than such a folder, or `seed` is negative.
    """
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, but is {seed}; give another one")
    card.check_target(out)
    model = build(seed)
    train(model, seed, recipe, mixture, _Progress(recipe.steps))
    print("evaluating on the held-out problems", file=sys.stderr, flush=True)
    card.write_folder(out, model, evaluation.measure(model), {"seed": seed, "recipe": recipe, "mixture": mixture})


class _Progress:
    """One line that is rewritten in a terminal, else a line every 100 steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.started = steps, time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        terminal = sys.stderr.isatty()
        if not (step == self.steps or step % (10 if terminal else 100) == 0):
            return
        took = time.monotonic() - self.started
        left = took / step * (self.steps - step)
        line = f"step {step}/{self.steps}  loss {loss:.3f}  {took:.0f} s, about {left:.0f} s left"
        end = "\r" if terminal and step < self.steps else "\n"
        print(f"{line:<60}", end=end, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny_model.pretrain", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="decides the first weights and the traces (default 0)")
    parser.add_argument("--out", type=Path, required=True, help="the Hugging Face folder to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        rebuild(options.seed, options.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
