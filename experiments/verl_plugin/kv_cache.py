"""Keys and values of the rows that are being sampled, and the attention of each row's next token to them.

Both products of attention are weighted sums of rows of a table, which is what embedding_bag computes: the scores are
the sum of the keys' channels (D rows of T) weighted by the query, the mixture is the sum of the values (T rows of D)
weighted by the softmax. torch.bmm calls MKL once a matrix, which for matrices this small takes twice as long; for
large ones (T = 1024) the two are about as fast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

BLOCK = 32  # scores are computed for all columns that the keys have, filled or not: they grow by so many


class KVCache:
    """For each token: `advance` once, then `attend` in every layer."""

    def __init__(
        self, keys: list[torch.Tensor], values: list[torch.Tensor], mask: torch.Tensor, n: int, room: int, heads: int
    ) -> None:
        """Take the prompts' keys and values, per layer (P, kv, T, D), and mask (P, T), each prompt n times.

        Args: room, how many tokens may follow; heads, those of the queries.
        """
        self.filled = mask.size(1)
        self.total, self.heads = self.filled + room, heads
        self.bias = torch.full((len(mask), 1, self.total), float("-inf"), device=mask.device)
        self.bias[:, 0, : self.filled].masked_fill_(mask, 0)
        self.keys, self.values = [layer.transpose(2, 3) for layer in keys], values
        self.keep(torch.arange(len(mask), device=mask.device).repeat_interleave(n))

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows, in this order; what else there was is dropped."""
        self.bias = self.bias[rows]
        self.keys = [self._grown(layer[rows, :, :, : self.filled]) for layer in self.keys]
        self.values = [self._whole(layer[rows, :, : self.filled]) for layer in self.values]
        _, kv_heads, _, dim = self.values[0].shape
        pairs = torch.arange(len(rows) * kv_heads, dtype=torch.int32, device=rows.device)
        self.pairs = pairs.repeat_interleave(self.heads // kv_heads).unsqueeze(1)  # for each query its row and kv head
        self.channels = _bags(self.pairs * dim, dim)

    def _grown(self, keys: torch.Tensor) -> torch.Tensor:
        """Return keys (rows, kv, D, filled) with zeros in further columns, up to a whole number of blocks."""
        columns = min(self.total, (self.filled // BLOCK + 1) * BLOCK)
        return F.pad(keys, (0, columns - self.filled))

    def _whole(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (rows, kv, filled, D) in a tensor with room for every token to come."""
        whole = values.new_empty(*values.shape[:2], self.total, values.size(3))
        whole[:, :, : self.filled] = values
        return whole

    def advance(self) -> None:
        """Make room for one more token a row."""
        if self.filled == self.keys[0].size(-1):
            self.keys = [self._grown(layer) for layer in self.keys]
        self.bias[:, :, self.filled] = 0
        self.filled += 1
        self.columns = _bags(self.pairs * self.total, self.filled)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Take the last token's k, v (N, kv, D) and q (N, heads, D), scaled; return its mixed values (N, heads * D)."""
        keys, values, last = self.keys[layer], self.values[layer], self.filled - 1
        keys[..., last], values[:, :, last] = k, v
        score = _sums(keys, self.channels, q.flatten()).view(len(q), self.heads, -1)
        weights = score.add_(self.bias[:, :, : score.size(-1)]).softmax(-1)[:, :, : self.filled]
        return _sums(values, self.columns, weights.flatten()).view(len(q), -1)


SUM = 0  # torch.embedding_bag's mode; its public wrapper checks for 3 microseconds what is true of every call here
Bags = tuple[torch.Tensor, torch.Tensor]


def _bags(first: torch.Tensor, size: int) -> Bags:
    """Return bags of `size` successive rows of a table, whose first is given (B, 1): rows (B * size,), starts (B,)."""
    rows = first + torch.arange(size, dtype=first.dtype, device=first.device)
    return rows.flatten(), torch.arange(0, rows.numel(), size, dtype=first.dtype, device=first.device)


def _sums(table: torch.Tensor, bags: Bags, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum (B, d) of the table's rows (.., d) in each bag; one weight for each row of a bag."""
    rows, starts = bags
    table = table.view(-1, table.size(-1))
    return torch.embedding_bag(table, rows, starts, mode=SUM, per_sample_weights=weights)[0]
