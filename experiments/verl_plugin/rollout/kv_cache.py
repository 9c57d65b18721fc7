"""Keys and values of the rows that are being sampled, and the attention of each row's next token to them.

Both products of attention are weighted sums of rows of a table, which is what embedding_bag computes. The scores are
the sum of the keys' channels (D rows of T) weighted by the query. The mixture is the sum of the values (T rows of D)
weighted by the softmax. torch.bmm calls MKL once per matrix, which for matrices this small takes twice as long; for
large ones (T = 1024) the two are about as fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

BLOCK = 32  # the keys grow by so many columns: scores are computed for all their columns, filled or not


class KVCache:
    """Keys and values of all layers. For each new token call `advance` once, then `attend` in every layer.

    The tokens that a row sees stand in the columns from 0 on, without a gap, and are summed in that order.
    """

    def __init__(
        self,
        keys: list[torch.Tensor],
        values: list[torch.Tensor],
        lengths: torch.Tensor,
        rows: torch.Tensor,
        room: int,
        heads: int,
        order: torch.Tensor,
    ) -> None:
        """Take the prompts' keys and values, per layer (P, kv, T, D), of lengths (P,).

        Args: rows (N,), which prompt each row has; room, how many tokens may follow; heads, those of the queries;
        order (D,), which channel of a key goes with each channel of a query.
        """
        self.lengths, self.heads, self.order = lengths, heads, order.int()
        self.total = int(lengths.max()) + room
        self.keys, self.values = [layer.transpose(2, 3) for layer in keys], values
        self.keep(rows)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep these rows only, in this order."""
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())
        self.even = bool((self.lengths == self.longest).all())
        self.keys = [self._grown(layer[rows, :, :, : self.longest]) for layer in self.keys]
        room = (0, 0, 0, self.total - self.longest)
        self.values = [F.pad(layer[rows, :, : self.longest], room) for layer in self.values]
        _, kv_heads, _, dim = self.values[0].shape
        pairs = torch.arange(len(rows) * kv_heads, dtype=torch.int32, device=rows.device)
        pairs = pairs.repeat_interleave(self.heads // kv_heads).unsqueeze(1)  # for each query its row and kv head
        self.channels = _bags(pairs * dim + self.order)
        self.positions = torch.arange(self.total, dtype=torch.int32, device=rows.device)
        self.tokens = pairs * self.total + self.positions
        self.rows = torch.arange(len(rows), device=rows.device)

    def _grown(self, keys: torch.Tensor) -> torch.Tensor:
        """Return keys (rows, kv, D, longest) with unfilled columns added, up to a whole number of blocks or `total`."""
        columns = min(self.total, (self.longest // BLOCK + 1) * BLOCK)
        grown = keys.new_empty(*keys.shape[:-1], columns)
        grown[..., : self.longest] = keys
        return grown

    def advance(self) -> None:
        """Make room for one more token in each row."""
        if self.longest == self.keys[0].size(-1):
            self.keys = [self._grown(layer) for layer in self.keys]
        self.longest, self.lengths = self.longest + 1, self.lengths + 1
        self.columns = _bags(self.tokens[:, : self.longest])
        self.last: Any = self.longest - 1 if self.even else self.lengths - 1
        self.unseen = None
        if not self.even:
            self.unseen = (self.positions[: self.longest] >= self.lengths.unsqueeze(1)).unsqueeze(1)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Store the last token's k and v (N, kv, D), and attend to all tokens so far.

        Return the mixed values (N, heads * D) for its q (N, heads, D), which is scaled already.
        """
        keys, values = self.keys[layer], self.values[layer]
        if self.even:
            keys.select(3, self.last).copy_(k)
            values.select(2, self.last).copy_(v)
        else:
            keys[self.rows, :, :, self.last], values[self.rows, :, self.last] = k, v
        score = _sums(keys, self.channels, q.flatten()).view(len(q), self.heads, -1)[:, :, : self.longest]
        if self.unseen is not None:
            score.masked_fill_(self.unseen, float("-inf"))
        return _sums(values, self.columns, score.softmax(-1).flatten()).view(len(q), -1)


SUM = 0  # torch.embedding_bag's mode; F.embedding_bag spends 3 microseconds on checks that each call here passes
Bags = tuple[torch.Tensor, torch.Tensor]


def _bags(rows: torch.Tensor) -> Bags:
    """Return bags of a table's rows (B, S), as embedding_bag takes them: rows (B * S,), starts (B,)."""
    return rows.flatten(), torch.arange(0, rows.numel(), rows.size(1), dtype=rows.dtype, device=rows.device)


def _sums(table: torch.Tensor, bags: Bags, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum (B, d) of the table's rows (.., d) in each bag; one weight for each row of a bag."""
    rows, starts = bags
    table = table.view(-1, table.size(-1))
    return torch.embedding_bag(table, rows, starts, mode=SUM, per_sample_weights=weights)[0]
