"""What makes one vector or one score of hidden states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn


class Score(nn.Module):  # type: ignore[misc,unused-ignore]
    """Classification head of a cross-encoder: the first token, a dense layer, one number.

    BERT's pooler and XLM-RoBERTa's head end in tanh, DistilBERT's in ReLU. Scores are what a sigmoid makes
    of that number, 0 to 1, also where a model's own config would leave the number as it is.
    """

    def __init__(self, width: int, activation: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.score = nn.Linear(width, 1)
        self._activation = activation

    def __call__(self, hidden: mx.array, lengths: list[int]) -> mx.array:
        x = self._activation(self.dense(hidden[:, 0]))
        return mx.sigmoid(self.score(x).astype(mx.float32))


@dataclass(frozen=True)
class YesOrNo:
    """A language model asked for a verdict: how much likelier `yes` is than `no` as its next token.

    As Qwen3-Reranker's page documents it: softmax over those two logits alone, which is a sigmoid of their
    difference. rows: of the output matrix, for (no, yes).
    """

    rows: mx.array

    def __call__(self, hidden: mx.array, lengths: list[int]) -> mx.array:
        ends = last(hidden, lengths).astype(mx.float32)
        logits = ends @ self.rows.astype(mx.float32).T
        return mx.sigmoid(logits[:, 1:] - logits[:, :1])


def last(hidden: mx.array, lengths: list[int]) -> mx.array:
    """Each row's last token: rows x width."""
    at = mx.array(lengths)[:, None, None] - 1
    return mx.take_along_axis(hidden, mx.broadcast_to(at, (len(lengths), 1, hidden.shape[-1])), axis=1)[:, 0]
