"""Log-probs and entropies of tokens from a model's logits, in float32, some rows at a time.

The sampler divides a token's logits by the temperature in float32 and takes the log-softmax of that. The same is done
here, so that both compute the probability of one distribution. veRL 0.9.1 rounds the temperature to the logits' type
(verl/workers/engine/fsdp/transformer_impl.py: in bfloat16 0.6 becomes 0.6016), and the quotient as well.

A vocabulary of 150,000 makes logits the largest tensor of a step. So they are taken in chunks, there is no float32 copy
of all of them, and their gradient takes their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

CHUNK = 2**26  # logits at a time: 0.25 GiB for a copy in float32, of which up to four exist at once


def log_probs_of(
    logits: torch.Tensor, labels: torch.Tensor, temperature: torch.Tensor, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the label's log-prob (N,) and the entropy (N,), None if not asked for, of each token's distribution.

    Args: logits (N, V) of any floating type; labels (N,); temperature (N,) float32, above 0.
    A backward pass overwrites the logits, so that there can be one only.
    """
    log_probs, entropy = _LogProbs.apply(logits, labels, temperature, with_entropy)
    return log_probs, entropy


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, temperature: torch.Tensor, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, labels, temperature)
        log_probs, entropy = [], []
        for rows, label, divisor in _chunks(logits, labels, temperature):
            log_softmax = (rows / divisor).log_softmax(-1)
            log_probs.append(log_softmax.gather(1, label))
            if with_entropy:
                entropy.append(-log_softmax.exp().mul_(log_softmax).sum(-1))
        return torch.cat(log_probs).squeeze(1), torch.cat(entropy) if with_entropy else None

    @staticmethod
    def backward(
        ctx: Any, log_prob_gradient: torch.Tensor | None, entropy_gradient: torch.Tensor | None
    ) -> tuple[torch.Tensor, None, None, None]:
        logits, *others = ctx.saved_tensors
        gradient = logits.detach()
        for rows, label, divisor, of_log_prob, of_entropy in _chunks(
            gradient, *others, log_prob_gradient, entropy_gradient
        ):
            log_softmax = (rows / divisor).log_softmax(-1)
            probability, change = log_softmax.exp(), torch.zeros_like(log_softmax)
            if of_log_prob is not None:
                change.addcmul_(probability, of_log_prob, value=-1).scatter_add_(1, label, of_log_prob)
            if of_entropy is not None:
                entropy = -(probability * log_softmax).sum(-1, keepdim=True)
                change -= probability.mul_(log_softmax.add_(entropy)).mul_(of_entropy)
            rows.copy_(change.div_(divisor))
        return gradient, None, None, None


def _chunks(logits: torch.Tensor, *columns: torch.Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Yield views of some rows at a time: (n, V) of the logits, (n, 1) of each column (N,), None for a column None."""
    size = max(1, CHUNK // logits.size(-1))
    for first in range(0, len(logits), size):
        some = slice(first, first + size)
        yield logits[some], *(None if column is None else column[some].unsqueeze(1) for column in columns)
