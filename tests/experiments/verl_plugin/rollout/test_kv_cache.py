"""Test experiments/verl_plugin/rollout/kv_cache.py against softmax(q k) v over all tokens that a row has seen."""

from __future__ import annotations

import pytest
import torch

from experiments.verl_plugin.rollout.kv_cache import BLOCK, KVCache

HEADS, KV_HEADS, DIM, LAYERS = 6, 2, 4, 2
ORDER = torch.tensor([2, 0, 3, 1])  # for each channel of a query, the channel of a key that goes with it


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k) v (heads * D,) for one row: q (heads, D), k and v (kv, T, D); no scale."""
    k, v = (tensor.repeat_interleave(HEADS // KV_HEADS, 0) for tensor in (k, v))
    return ((k @ q.unsqueeze(2)).softmax(1) * v).sum(1).flatten()


class Rows:
    """The tokens that each row has seen, kept as a list."""

    def __init__(self, lengths: list[int], n: int, dtype: torch.dtype) -> None:
        self.lengths = torch.tensor(lengths)
        self.prompts = torch.randn(2, LAYERS, len(lengths), KV_HEADS, max(lengths), DIM, dtype=dtype)
        self.seen = [self.prompts[:, :, row, :, :size] for row, size in enumerate(lengths) for _ in range(n)]

    def add(self, tokens: torch.Tensor) -> None:
        """Append keys and values (2, layers, rows, kv, D)."""
        self.seen = [
            torch.cat([old, new.unsqueeze(3)], 3) for old, new in zip(self.seen, tokens.unbind(2), strict=True)
        ]

    def attend(self, layer: int, q: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [plain(q[row], seen[0, layer][..., ORDER], seen[1, layer]) for row, seen in enumerate(self.seen)]
        )

    def cache(self, n: int, room: int) -> KVCache:
        keys, values = (list(part) for part in self.prompts)
        rows = torch.arange(len(self.lengths)).repeat_interleave(n)
        return KVCache(keys, values, self.lengths, rows, room, HEADS, ORDER)


@pytest.mark.parametrize("lengths", [[3, 3], [5, 1, BLOCK + 2], [BLOCK], [BLOCK - 1, 2]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_attention_is_that_over_everything_seen_while_rows_leave(lengths: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    n, room = 3, 2 * BLOCK + 3
    rows = Rows(lengths, n, dtype)
    cache = rows.cache(n, room)
    for step in range(room):
        if step in (1, BLOCK, BLOCK + 20):
            keep = torch.randperm(len(rows.seen))[: max(1, len(rows.seen) - 1)]
            cache.keep(keep)
            rows.seen = [rows.seen[row] for row in keep]
        cache.advance()
        tokens = torch.randn(2, LAYERS, len(rows.seen), KV_HEADS, DIM, dtype=dtype)
        rows.add(tokens)
        for layer in range(LAYERS):
            q = torch.randn(len(rows.seen), HEADS, DIM, dtype=dtype)
            mixed = cache.attend(layer, q, *tokens[:, layer])
            torch.testing.assert_close(mixed, rows.attend(layer, q), atol=1e-5, rtol=1e-5)


def test_there_is_no_room_for_more_than_was_asked_for() -> None:
    rows = Rows([2], 1, torch.float32)
    cache = rows.cache(1, 14)
    for _ in range(14):
        cache.advance()
    with pytest.raises(IndexError):
        cache.advance()
        cache.attend(0, torch.zeros(1, HEADS, DIM), *torch.zeros(2, 1, KV_HEADS, DIM))
