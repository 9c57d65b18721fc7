"""Drawing tokens: temperature, top-k, top-p, and randomness that depends on the request alone.

A sample is a function of (seed, replica, weights' version, prompt, temperature, how often this prompt was asked for).
It never depends on the other requests in its batch. So veRL's own agent loop and our batched one draw the same samples
(with one replica: server.py), and a resumed run draws the samples that the run would draw without an interruption.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

PER_ROW = ("temperature", "top_k", "top_p", "noise")


@dataclass(frozen=True)
class Draw:
    """How the rows of one batch are drawn; every tensor has one entry per row."""

    temperature: torch.Tensor  # (B,) float32; 0 or less means greedy
    top_k: torch.Tensor  # (B,) int64; 0 or less means all
    top_p: torch.Tensor  # (B,) float32
    noise: torch.Tensor  # (B, T) float64 uniforms in [0, 1), one a token
    vocabulary: int | None = None  # ids from this one on belong to no token: never drawn; None: draw any

    @cached_property
    def truncates(self) -> bool:
        """Whether any row has a top-k or a top-p."""
        return bool((self.top_k > 0).any() or (self.top_p < 1).any())

    @cached_property
    def greedy(self) -> torch.Tensor | None:
        """Which rows are greedy (B,), None if none is."""
        greedy = self.temperature <= 0
        return greedy if bool(greedy.any()) else None

    def rows(self, keep: torch.Tensor) -> Draw:
        """Return the draw of the rows in `keep` (indices or a mask)."""
        return replace(self, **{name: getattr(self, name)[keep] for name in PER_ROW})

    def to(self, device: torch.device) -> Draw:
        """Return the same draw on another device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in PER_ROW})


class NoiseStream:
    """Uniforms for requests: under the same weights the k-th request for one prompt and temperature gets stream k."""

    def __init__(self, *key: int) -> None:
        self.key = key
        self.asked: Counter[tuple] = Counter()

    def next(self, prompt: Sequence[int], temperature: float, length: int) -> np.ndarray:
        """Return (length,) float64 uniforms for one more response to `prompt`.

        `length` does not choose the stream: a longer request begins with the numbers of a shorter one.
        """
        request = (tuple(prompt), float(temperature))
        repetition = self.asked[request]
        self.asked[request] += 1
        seed = zlib.crc32(repr((*self.key, *request, repetition)).encode())
        return np.random.Generator(np.random.Philox(seed)).random(length)


def draw_tokens(logits: torch.Tensor, draw: Draw, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by inverting the cumulative distribution at the row's uniform.

    Args: logits (B, V); draw with B rows; step, which column of its noise to use.
    Returns: ids (B,) int64 and log_probs (B,) float32 of these ids under the distribution drawn from (after
    temperature and truncation, as vLLM's "processed_logprobs"). A greedy row has log-probs at temperature 1.
    """
    logits = logits[:, : draw.vocabulary]  # an embedding may be padded; veRL has vLLM leave out its padding too
    temperature, greedy = draw.temperature, draw.greedy
    if greedy is not None:
        temperature = temperature.masked_fill(greedy, 1.0)
    logits = logits.float() / temperature.unsqueeze(1)
    size = logits.size(-1)
    if draw.truncates:
        logits = truncate(logits, draw.top_k, draw.top_p)
    log_probs = logits.log_softmax(-1)
    cumulative = log_probs.exp().cumsum(-1, dtype=torch.float64)
    threshold = draw.noise[:, step].unsqueeze(1) * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp_max(size - 1)
    if greedy is not None:
        ids = torch.where(greedy, log_probs.argmax(-1), ids)
    return ids, log_probs.gather(1, ids.unsqueeze(1)).squeeze(1)


def truncate(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return logits (B, V) with -inf outside each row's top-k and outside its smallest set of mass top_p."""
    ordered, order = logits.sort(dim=-1, descending=True)
    rank = torch.arange(logits.size(-1), device=logits.device).unsqueeze(0)
    limit = torch.where(top_k > 0, top_k, torch.full_like(top_k, logits.size(-1))).unsqueeze(1)
    probability = ordered.masked_fill(rank >= limit, float("-inf")).softmax(-1)
    enough = probability.cumsum(-1) - probability >= top_p.unsqueeze(1)
    outside = (rank >= limit) | (enough & (top_p < 1).unsqueeze(1))  # top_p = 1 cuts nothing, even if a sum rounds to 1
    outside[:, 0] = False
    return logits.scatter(1, order, ordered.masked_fill(outside, float("-inf")))
