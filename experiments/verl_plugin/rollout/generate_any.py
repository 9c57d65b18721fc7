"""Generation by transformers' own model and cache: any architecture, any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from experiments.verl_plugin.rollout.draw import Draw, draw_tokens


@torch.inference_mode()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], draw: Draw, limits: Sequence[int], eos: set[int], pad: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the token ids of one response per prompt (ending in EOS unless its limit came first) and their log-probs.

    Prompts are padded on the left. Finished rows leave the batch. `limits` has each row's largest number of new tokens.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, device=device)
    mask = torch.zeros((len(prompts), width), dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    position = (mask.cumsum(1) - 1).clamp_min(0)
    draw, limit = draw.to(device), torch.tensor(limits, device=device)
    ends = torch.tensor(sorted(eos), device=device)
    rows = list(range(len(prompts)))
    responses: list[list[int]] = [[] for _ in prompts]
    log_probs: list[list[float]] = [[] for _ in prompts]
    cache = DynamicCache()
    step = 0
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        token, log_prob = draw_tokens(logits, draw, step)
        for row, value, lp in zip(rows, token.tolist(), log_prob.tolist(), strict=True):
            responses[row].append(value)
            log_probs[row].append(lp)
        step += 1
        alive = ~torch.isin(token, ends) & (limit > step)
        if not bool(alive.any()):
            return responses, log_probs
        ids, position = token.unsqueeze(1), position[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        if not bool(alive.all()):
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            ids, position, mask, draw, limit = ids[keep], position[keep], mask[keep], draw.rows(keep), limit[keep]
            rows = [rows[index] for index in keep.tolist()]
