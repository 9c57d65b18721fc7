"""GRPO in plain PyTorch: the least that the same training takes. `python -m benchmarks.bare_grpo FOLDER STEPS`

The model and its key-value cache are transformers'; sampling, advantages and loss are written out. A step has one
update, so the rollout's policy is the one that is updated: two forwards a step (policy and reference), not three.
Formulas: Shao et al. 2024 (DeepSeekMath), section 4.1; KL estimator k3 of Schulman 2020.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.setting import KL, LR, PROMPTS, RESPONSE_LENGTH, SEED, TEMPERATURE, N, digit_share


@torch.inference_mode()
def sample(model: Any, prompts: torch.Tensor, length: int, eos: int) -> torch.Tensor:
    """Return (B, length) int64 tokens drawn after prompts (B, P) of equal lengths; what follows an `eos` is `eos`."""
    from transformers import DynamicCache

    cache, ids, drawn = DynamicCache(), prompts, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(length):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        ids = torch.multinomial((logits / TEMPERATURE).softmax(-1), 1).masked_fill(ended.unsqueeze(1), eos)
        ended = ended | (ids.squeeze(1) == eos)
        drawn.append(ids)
    return torch.cat(drawn, 1)


def token_log_probs(model: Any, prompts: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
    """Return (B, T) log-probabilities of the tokens of responses (B, T) after prompts (B, P)."""
    length = responses.size(1)
    logits = model(input_ids=torch.cat([prompts, responses], 1), logits_to_keep=length + 1, use_cache=False).logits[
        :, :-1
    ]
    log_probs: torch.Tensor = (logits / TEMPERATURE).log_softmax(-1)
    return log_probs.gather(-1, responses.unsqueeze(-1)).squeeze(-1)


def group_advantages(rewards: torch.Tensor, n: int) -> torch.Tensor:
    """Return (B,) rewards against the mean of their group of n, over the group's standard deviation."""
    groups = rewards.view(-1, n)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).view(-1)


def grpo_loss(
    log_probs: torch.Tensor, reference: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, kl: float
) -> torch.Tensor:
    """Return the loss, a scalar: mean over the tokens of mask (B, T) of -ratio * advantage + kl * k3.

    The ratio to the rollout's policy is 1 and never clipped at the first update; it is there for its gradient.
    """
    ratio = (log_probs - log_probs.detach()).exp()
    difference = reference - log_probs
    k3 = difference.exp() - difference - 1
    return ((-ratio * advantages.unsqueeze(1) + kl * k3) * mask).sum() / mask.sum()


def train(
    model: Any,
    steps: Sequence[torch.Tensor],
    reward: Callable[[torch.Tensor], list[float]],
    *,
    n: int,
    length: int,
    eos: int,
    lr: float,
    kl: float,
) -> Iterator[dict[str, float]]:
    """Train on steps of prompts (P, L); yield {"reward", "loss", "length"} after each update.

    `reward` scores responses (P * n, T); responses to one prompt are neighbours.
    """
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    for prompts in steps:
        prompts = prompts.repeat_interleave(n, 0)
        responses = sample(model, prompts, length, eos).clone()
        mask = ((responses == eos).cumsum(1) - (responses == eos).long() == 0).float()
        rewards = torch.tensor(reward(responses))
        with torch.inference_mode():
            reference_log_probs = token_log_probs(reference, prompts, responses)
        log_probs = token_log_probs(model, prompts, responses)
        loss = grpo_loss(log_probs, reference_log_probs.clone(), group_advantages(rewards, n), mask, kl)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield {"reward": rewards.mean().item(), "loss": loss.item(), "length": mask.sum(1).mean().item()}


def main() -> None:
    """Train, and write one row per step to bare.jsonl."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation="sdpa")
    texts = json.loads((folder / "prompts.json").read_text())
    ids = torch.tensor(tokenizer(texts)["input_ids"])
    steps = list(ids.split(PROMPTS))[:count]

    def reward(responses: torch.Tensor) -> list[float]:
        return [digit_share(text) for text in tokenizer.batch_decode(responses, skip_special_tokens=True)]

    with open(folder / "bare.jsonl", "w", buffering=1) as file:
        rows = train(model, steps, reward, n=N, length=RESPONSE_LENGTH, eos=tokenizer.eos_token_id, lr=LR, kl=KL)
        for step, row in enumerate(rows, 1):
            file.write(json.dumps({"step": step, "data": row}) + "\n")


if __name__ == "__main__":
    main()
