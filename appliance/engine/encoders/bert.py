"""The BERT family: one stack of post-norm blocks, told apart by names, positions and the feed-forward part.

BERT (Devlin et al. 2018), RoBERTa and XLM-RoBERTa (positions begin behind the padding token's id),
DistilBERT (no token types), nomic-bert (rotary positions, Su et al. 2021; SwiGLU, Shazeer 2020). `names`
brings every checkpoint to the names used here; queries, keys and values are one product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from appliance.engine.encoders.kernels import Norm, kernels, padding_mask


@dataclass(frozen=True)
class Shape:
    """Of one network. positions: rows of the table of learned positions, 0: rotary; first: the row of
    the first token. types: kinds of segments, 0: none."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    eps: float
    activation: str
    positions: int = 0
    first: int = 0
    types: int = 0
    gated: bool = False
    rotary: int = 0  # elements of each head that are turned
    base: float = 10_000.0
    interleaved: bool = False

    @property
    def longest(self) -> int | None:
        """Tokens; None: as far as positions go there is no limit."""
        return self.positions - self.first if self.positions else None


class Embeddings(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word = nn.Embedding(shape.vocabulary, shape.width)
        if shape.positions:
            self.position = nn.Embedding(shape.positions, shape.width)
        if shape.types:
            self.type = nn.Embedding(shape.types, shape.width)
        self.norm = Norm(shape.width, shape.eps)
        self._shape = shape

    def __call__(self, tokens: mx.array, types: mx.array | None) -> mx.array:
        shape = self._shape
        x = self.word(tokens)
        if shape.positions:
            x = x + self.position(mx.arange(shape.first, shape.first + tokens.shape[1]))
        if shape.types:
            x = x + self.type(mx.zeros((1, 1), mx.int32) if types is None else types)
        return self.norm(x)


class Block(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self, shape: Shape, biased: set[str]) -> None:
        """biased: those of the linear layers' names that have a bias."""
        super().__init__()
        width, inner = shape.width, shape.inner
        self.qkv = nn.Linear(width, 3 * width, bias="qkv" in biased)
        self.out = nn.Linear(width, width, bias="out" in biased)
        self.norm1 = Norm(width, shape.eps)
        self.up = nn.Linear(width, inner, bias="up" in biased)
        if shape.gated:
            self.gate = nn.Linear(width, inner, bias="gate" in biased)
        self.down = nn.Linear(inner, width, bias="down" in biased)
        self.norm2 = Norm(width, shape.eps)
        self._shape = shape
        self._activation = kernels().activations[shape.activation]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        x = self.norm1(x + self.out(self._attend(x, mask)))
        inner = self._activation(self.gate(x)) * self.up(x) if self._shape.gated else self._raise(x)
        return self.norm2(x + self.down(inner))

    def _raise(self, x: mx.array) -> mx.array:
        return self._activation(self.up(x))

    def _attend(self, x: mx.array, mask: mx.array | None) -> mx.array:
        shape = self._shape
        rows, tokens, width = x.shape
        mixed = self.qkv(x).reshape(rows, tokens, 3, shape.heads, -1).transpose(2, 0, 3, 1, 4)
        q, k, v = mixed[0], mixed[1], mixed[2]
        if shape.rotary:
            q, k = (
                mx.fast.rope(
                    one, shape.rotary, traditional=shape.interleaved, base=shape.base, scale=1.0, offset=0
                )
                for one in (q, k)
            )
        mixed = kernels().attention(q, k, v, mask)
        return mixed.transpose(0, 2, 1, 3).reshape(rows, tokens, width)


class Encoder(nn.Module):  # type: ignore[misc,unused-ignore]
    """Tokens to hidden states, rows x tokens x width."""

    def __init__(self, shape: Shape, biased: set[str]) -> None:
        super().__init__()
        self.embeddings = Embeddings(shape)
        self.layers = [Block(shape, biased) for _ in range(shape.layers)]

    def __call__(self, tokens: mx.array, types: mx.array | None, lengths: list[int]) -> mx.array:
        """tokens: padded at their ends to the longest; what stands there does not matter."""
        x = self.embeddings(tokens, types)
        mask = padding_mask(lengths, x.dtype)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Config:
    """A config.json whose values are asked for by any of their names. Raises KeyError, which names them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def whole(self, *names: str, default: int | None = None) -> int:
        for name in names:
            value = self._values.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                return value
        if default is None:
            raise KeyError(f"config.json does not say {names[0]}")
        return default

    def real(self, *names: str, default: float) -> float:
        for name in names:
            value = self._values.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        return default

    def text(self, *names: str, default: str) -> str:
        return next((v for v in map(self._values.get, names) if isinstance(v, str)), default)

    def get(self, name: str) -> Any:
        return self._values.get(name)


def bert(config: Config) -> Shape:
    return Shape(
        width=config.whole("hidden_size", "dim"),
        layers=config.whole("num_hidden_layers", "n_layers"),
        heads=config.whole("num_attention_heads", "n_heads"),
        inner=config.whole("intermediate_size", "hidden_dim"),
        vocabulary=config.whole("vocab_size"),
        eps=config.real("layer_norm_eps", default=1e-12),
        activation=config.text("hidden_act", "activation", default="gelu"),
        positions=config.whole("max_position_embeddings"),
        types=config.whole("type_vocab_size", default=2),
    )


def nomic(config: Config) -> Shape:
    rope = config.get("rope_parameters")
    width, heads = config.whole("n_embd", "hidden_size"), config.whole("n_head", "num_attention_heads")
    inside = Config(rope if isinstance(rope, Mapping) else {})
    fraction = config.real("rotary_emb_fraction", default=1.0)
    return Shape(
        width=width,
        layers=config.whole("n_layer", "num_hidden_layers"),
        heads=heads,
        inner=config.whole("n_inner", "intermediate_size"),
        vocabulary=config.whole("vocab_size"),
        eps=config.real("layer_norm_epsilon", "layer_norm_eps", default=1e-12),
        activation=config.text("activation_function", "hidden_act", default="swiglu"),
        types=config.whole("type_vocab_size", default=2),
        gated=True,
        rotary=int(width // heads * fraction),
        base=config.real("rotary_emb_base", default=inside.real("rope_theta", default=1000.0)),
        interleaved=bool(config.get("rotary_emb_interleaved")),
    )
