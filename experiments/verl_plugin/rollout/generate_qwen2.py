"""Fast generation for small Qwen2 models: fused projections and a key-value cache of its own.

On tiny models transformers' decoding loop spends its time in Python. This sampler does the same arithmetic in about a
quarter of the calls. It computes each prompt once for all its n responses, and drops finished rows.

The trainer computes the same with transformers' modules. The log-probs of the two differ by rounding only: in fp32 by
less than 1e-6 in the mean and 1e-5 at worst on the shipped model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from experiments.verl_plugin.rollout.draw import Draw, draw_tokens
from experiments.verl_plugin.rollout.kv_cache import KVCache

COMPACT_BELOW = 0.8  # dropping finished rows copies the cache: do it when only this share of the rows is alive


@dataclass
class Layer:
    """One decoder layer's weights, transposed and joined for addmm.

    The rotary embedding rotates channels i and D/2 + i of a query or key together. Here the two lie side by side, so
    that they can be read as one complex number.
    """

    norms: tuple[torch.Tensor, torch.Tensor]
    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Room:
    """The memory in which N tokens are computed, reused by every layer and step, and the views that a layer needs."""

    def __init__(self, layer: Layer, rows: int, heads: int, dim: int) -> None:
        def new(columns: int) -> torch.Tensor:
            return layer.qkv_bias.new_empty(rows, columns)

        self.qkv = new(layer.qkv.size(1))
        self.keys, self.values = self.qkv.view(rows, -1, dim)[:, heads:].chunk(2, 1)  # (N, kv_heads, D)
        rotated = self.qkv[:, : (heads + self.keys.size(1)) * dim]
        self.pairs = torch.view_as_complex(rotated.view(rows, -1, 2))
        self.queries = new(heads * dim)
        self.by_head = self.queries.view(rows, heads, dim)
        self.gate_up = new(layer.gate_up.size(1))
        self.gate, self.up = self.gate_up.chunk(2, 1)
        self.down = new(layer.down.size(1))


class Qwen2Sampler:
    """Generates from a transformers Qwen2ForCausalLM on its device; call `refresh` after its weights have changed."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.model = model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.epsilon = config.rms_norm_eps
        self.refresh()

    @staticmethod
    def supports(model: Any) -> bool:
        """Return whether this class computes what the model computes."""
        config = model.config
        plain_rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") == "default"
        plain = plain_rope and config.hidden_act == "silu" and not getattr(config, "use_sliding_window", False)
        return config.model_type == "qwen2" and plain and model.dtype in (torch.float32, torch.float64)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's current weights."""
        self.embedding = self.model.model.embed_tokens.weight
        self.device = self.embedding.device
        channels = torch.arange(self.heads * self.head_dim, device=self.device).view(self.heads, self.head_dim)
        self.pairs = channels[0].view(2, -1).t().flatten()  # 0, D/2, 1, D/2 + 1, ..
        self.order = self.pairs.argsort()  # where channels 0, 1, 2, .. stand in `pairs`
        self.queries = channels[:, self.order].flatten()
        self.layers = []
        for block in self.model.model.layers:
            heads, mlp = block.self_attn, block.mlp
            self.layers.append(
                Layer(
                    norms=(block.input_layernorm.weight, block.post_attention_layernorm.weight),
                    qkv=self._joined(heads, "weight").t(),
                    qkv_bias=self._joined(heads, "bias").squeeze(1),
                    output=heads.o_proj.weight.t(),
                    gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).t(),
                    down=mlp.down_proj.weight.t(),
                )
            )
        self.norm, self.head = self.model.model.norm.weight, self.model.lm_head.weight.t()
        self.inverse_frequency = self.model.model.rotary_emb.inv_freq
        self.room: Room | None = None

    def _joined(self, heads: Any, name: str) -> torch.Tensor:
        """Return the weights (out, in) or biases (out, 1) of queries, keys and values, one below the other."""
        q, k, v = (
            getattr(projection, name).view(-1, self.head_dim, projection.in_features if name == "weight" else 1)
            for projection in (heads.q_proj, heads.k_proj, heads.v_proj)
        )
        return torch.cat([q[:, self.pairs], k[:, self.pairs], v]).flatten(0, 1)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(x, weight.shape, weight, self.epsilon)

    def _rotation(self, position: torch.Tensor) -> torch.Tensor:
        """Return the rotary embedding at positions (N,): complex numbers (N, (heads + kv_heads) * D / 2)."""
        angle = position.unsqueeze(-1).float() * self.inverse_frequency
        return torch.complex(angle.cos(), angle.sin()).repeat(1, self.heads + self.kv_heads)

    def _room(self, rows: int) -> Room:
        if self.room is None or len(self.room.qkv) != rows:
            self.room = Room(self.layers[0], rows, self.heads, self.head_dim)
        return self.room

    def _forward(self, ids: torch.Tensor, rotation: torch.Tensor, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Return the last hidden states (N, d) of tokens (N,).

        `attend(layer, q, k, v)` returns (N, heads * D). Its q is scaled already. The next layer overwrites q, k
        and v.
        """
        x = F.embedding(ids, self.embedding)
        room, scale = self._room(len(ids)), self.head_dim**-0.5
        for index, layer in enumerate(self.layers):
            torch.addmm(layer.qkv_bias, self._norm(x, layer.norms[0]), layer.qkv, out=room.qkv)
            room.pairs.mul_(rotation)
            torch.index_select(room.qkv, 1, self.queries, out=room.queries).mul_(scale)
            x.addmm_(attend(index, room.by_head, room.keys, room.values), layer.output)
            _times(self._norm(x, layer.norms[1]), layer.gate_up, room.gate_up)
            x += _times(F.silu(room.gate, inplace=True).mul_(room.up), layer.down, room.down)
        return x

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return _times(self._norm(x, self.norm), self.head, x.new_empty(len(x), self.head.size(1)))

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], n: int, draw: Draw, max_new: int, eos: set[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sample n responses per prompt. Row i * n + j is the j-th response to prompt i, here and in `draw`'s B rows.

        Returns: ids (B, max_new) int64, log_probs (B, max_new) float32, lengths (B,) int64, on the model's device.
        Entries beyond a row's length are zero.
        """
        device = self.device
        index = torch.arange(len(prompts) * n, device=device)  # of each computed row: its row in the results
        alive, living = torch.ones_like(index, dtype=torch.bool), len(index)
        draw = draw.to(device)
        prompt_length = torch.tensor([len(prompt) for prompt in prompts], device=device)
        hidden, keys, values = self._prefill(prompts, prompt_length)
        logits = self._logits(hidden[index // n])
        cache = KVCache(keys, values, prompt_length, index // n, max_new, self.heads, self.order)
        rotation = self._rotation(torch.arange(cache.total, device=device))
        ids = torch.zeros(len(index), max_new, dtype=torch.long, device=device)
        log_probs = torch.zeros(len(index), max_new, device=device)
        lengths = torch.full((len(index),), max_new, device=device)
        is_end = torch.isin(torch.arange(len(self.embedding)), torch.tensor(sorted(eos), dtype=torch.long)).to(device)
        for step in range(max_new):
            token, log_prob = draw_tokens(logits, draw, step)
            ids[:, step].index_copy_(0, index, token)
            log_probs[:, step].index_copy_(0, index, log_prob)
            ended = is_end.index_select(0, token) & alive
            if bool(ended.any()):
                lengths[index[ended]] = step + 1
                alive = alive & ~ended
                living = int(alive.sum())
            if living == 0 or step + 1 == max_new:
                break
            if living <= COMPACT_BELOW * len(index):
                keep = alive.nonzero().squeeze(1)
                cache.keep(keep)
                index, token, alive, draw = index[keep], token[keep], alive[keep], draw.rows(keep)
            cache.advance()
            logits = self._logits(self._forward(token, rotation[cache.last], cache.attend))
        live = torch.arange(max_new, device=device) < lengths.unsqueeze(1)
        return ids * live, log_probs * live, lengths

    def _prefill(
        self, prompts: Sequence[Sequence[int]], lengths: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Return each prompt's last hidden state (P, d), and keys and values per layer (P, kv, T, D)."""
        count, width = len(prompts), max(map(len, prompts))
        padded = torch.tensor([list(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
        ids = padded.to(self.device)
        position = torch.arange(width, device=self.device).repeat(count)
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (t.reshape(count, width, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
            keys.append(k.clone())  # a copy, since the next layer overwrites k and v
            values.append(v.clone())
            mixed = F.scaled_dot_product_attention(
                q, k[..., self.order], v, is_causal=True, scale=1.0, enable_gqa=self.heads != self.kv_heads
            )
            return mixed.transpose(1, 2).reshape(count * width, -1)

        hidden = self._forward(ids.reshape(-1), self._rotation(position), attend).view(count, width, -1)
        return hidden[torch.arange(count, device=self.device), lengths - 1], keys, values


def _times(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Return x @ weight, written to `out`.

    addmm_ on zeros, since torch.mm, which does not read its output, takes up to twice as long.
    """
    return out.zero_().addmm_(x, weight)
