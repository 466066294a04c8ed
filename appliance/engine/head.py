"""A model's logits for the last token alone, out of the forward pass of a prompt's last chunk.

The logits of a whole chunk are large (2,048 tokens of a vocabulary of 152,000 are 600 MB), so mlx-lm's loops
compute a prompt without its last token and that one in a pass of its own, which reads all weights and the
whole cache again. With a long chunk that pass is worth its price: no logits are asked for, so that MLX leaves
out the chunk's last layer but for its keys and values. With a short one it is not, and one pass does both.

For that the output matrix, which is the model's last step, is given the last token only; what mlx-lm's models
do behind it (a scale, a cap) they do to each token by itself.

The matrix is `lm_head`, or the embeddings where they are tied to it. The module in its place gets a class of
its own, derived from its own. `find` believes none of this before it has compared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core
import mlx.nn as nn

from appliance.engine import caches

mx: Any = mlx.core
log = logging.getLogger(__name__)

HEADS = ("lm_head", "output")
NEAR = 1e-2  # of the largest logit, by which the two ways may differ: kernels for one row add up otherwise
TRIAL = 3  # tokens


class Head:
    """Of one model. Only for the decode thread."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self._on = False

    @contextmanager
    def last(self) -> Iterator[None]:
        """Within, the model's calls give logits of the last token only: (rows, 1, vocabulary)."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def cut(self, hidden: Any) -> Any:
        return hidden[:, -1:] if self._on and hidden.ndim == 3 else hidden

    def take(self, module: Any) -> None:
        """Stand before this module."""
        kind, head = type(module), self
        name = "as_linear" if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)) else "__call__"
        whole = getattr(kind, name)

        def call(self: Any, hidden: Any) -> Any:
            return whole(self, head.cut(hidden))

        module.__class__ = type(kind.__name__, (kind,), {name: call})


def find(net: Any, kv_bits: int | None) -> Head | None:
    """None: this model's last token has to go alone."""
    module = _module(net)
    if module is None:
        return None
    head, kind = Head(len(caches.make(net, kv_bits))), type(module)
    head.take(module)
    try:
        if _agrees(net, head, kv_bits):
            return head
        log.info("the logits of the last token alone are not those of the whole; it will be computed apart")
    except Exception:
        log.exception("the logits of the last token cannot be had alone")
    module.__class__ = kind
    return None


def _module(net: Any) -> Any:
    """The output matrix, or the only embeddings there are."""
    named = dict(net.named_modules())
    heads = [module for name, module in named.items() if name.rpartition(".")[2] in HEADS]
    heads = [module for module in heads if isinstance(module, (nn.Linear, nn.QuantizedLinear))]
    if not heads:
        heads = [m for m in named.values() if isinstance(m, (nn.Embedding, nn.QuantizedEmbedding))]
    return heads[0] if len(heads) == 1 else None


def _agrees(net: Any, head: Head, kv_bits: int | None) -> bool:
    tokens = mx.arange(1, TRIAL + 1)[None]
    whole = net(tokens, cache=caches.make(net, kv_bits))[:, -1:].astype(mx.float32)
    with head.last():
        last = net(tokens, cache=caches.make(net, kv_bits)).astype(mx.float32)
    if last.shape != whole.shape:
        return False
    return bool(mx.abs(last - whole).max() <= NEAR * mx.abs(whole).max())
