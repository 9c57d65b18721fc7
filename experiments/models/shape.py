"""A decoder's sizes, and the numbers of parameters and bytes that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.values import is_whole


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes, by the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False
    head_dim: int | None = None

    @classmethod
    def of(cls, values: Any) -> Shape | None:
        """Return the shape that a config.json or model.shape states; None where it states none."""
        values = dict(values) if isinstance(values, Mapping) else {}
        if not values.get("num_key_value_heads") and values.get("num_attention_heads"):
            values["num_key_value_heads"] = values["num_attention_heads"]
        sizes = {name: values.get(name) for name in cls.__dataclass_fields__}
        needed = [size for name, size in sizes.items() if name not in ("tie_word_embeddings", "head_dim")]
        if not all(is_whole(size, 1) for size in needed) or not (sizes["head_dim"] is None or sizes["head_dim"] >= 1):
            return None
        return cls(**{name: size for name, size in sizes.items() if size is not None})  # type: ignore[arg-type]

    @property
    def head(self) -> int:
        """Return the size of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layer_parameters(self) -> int:
        """Return the parameters of one layer of the Qwen2 architecture: biases for q, k and v, three MLP matrices."""
        q, kv = self.num_attention_heads * self.head, self.num_key_value_heads * self.head
        attention = self.hidden_size * (2 * q + 2 * kv) + q + 2 * kv
        return attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, tied embeddings counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * self.layer_parameters + self.hidden_size

    @property
    def kv_bytes(self) -> int:
        """Return the bytes of KV cache that one token takes in bf16."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head
