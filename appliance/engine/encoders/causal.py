"""Qwen3-Embedding and Qwen3-Reranker: mlx-lm's own Qwen3, read once from end to end.

Rows are padded at their ends: attention is causal, so no token sees what stands behind it, and the last
token of each row is found by its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.qwen3 import ModelArgs, Qwen3Model

from appliance.engine.encoders.tokens import Item, Tokens, query_too_long, too_long

# The prompt that Qwen3-Reranker was trained with (its model card, "Transformers Usage").
SYSTEM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
ASKED = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"


class Causal:
    """The network without its output matrix; called as `bert.Encoder` is."""

    def __init__(self, net: Qwen3Model) -> None:
        self.net = net

    def __call__(self, tokens: mx.array, types: mx.array | None, lengths: list[int]) -> mx.array:
        hidden: mx.array = self.net(tokens)
        return hidden


def build(config: dict[str, Any]) -> Qwen3Model:
    return Qwen3Model(ModelArgs.from_dict(config))


class Judge:
    """Pairs of a query and a document in that prompt."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._before, self._after = tokens.plain(SYSTEM), tokens.plain(ANSWER)

    def pairs(
        self, query: str, documents: Sequence[str], instruction: str | None, limit: int, *, truncate: bool
    ) -> list[Item]:
        """Raises Refusal."""
        room = limit - len(self._before) - len(self._after)
        items = []
        for index, document in enumerate(documents):
            asked = {"instruction": instruction or INSTRUCTION, "query": query}
            ids = self._tokens.plain(ASKED.format(**asked, document=document))
            if len(ids) > room:
                if not truncate:
                    raise too_long("documents", index, len(ids) + limit - room, limit)
                if len(self._tokens.plain(ASKED.format(**asked, document=""))) >= room:
                    raise query_too_long(limit)
                ids = ids[:room]
            items.append(Item(np.asarray([*self._before, *ids, *self._after], dtype=np.int32)))
        return items
