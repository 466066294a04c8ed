"""Log-probabilities of generated tokens, for rows that ask.

They are the model's own: the log-softmax of its raw logits, in float32, before temperature, top-p, top-k,
min-p, penalties, biases and grammars, whatever those then made of the choice. That is what OpenAI's API
gives for models without such fields, and what vLLM calls `raw_logprobs`. So under a grammar or a bias the
token that was picked may be an unlikely one, and may be missing among the likeliest.

They are computed with the step and read with its tokens, so that asking costs no synchronisation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core

if TYPE_CHECKING:
    from appliance.engine.row import Row

mx: Any = mlx.core


@dataclass(frozen=True)
class Likely:
    """Of one token: how likely it was, and the likeliest at its place with theirs, best first."""

    logprob: float
    top: list[tuple[int, float]]


class Told:
    """Of one row's next token, perhaps still being computed. The arrays are those of all rows that ask."""

    def __init__(self, place: int, count: int, chosen: Any, ids: Any, values: Any) -> None:
        self._place = place
        self._count = count
        self._chosen, self._ids, self._values = chosen, ids, values

    def read(self) -> Likely:
        place, count = self._place, self._count
        top: list[tuple[int, float]] = []
        if count:
            pairs = zip(self._ids[place].tolist(), self._values[place].tolist(), strict=True)
            top = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]
        return Likely(self._chosen[place].item(), top)


def tell(asking: Sequence[tuple[int, Row]], logits: Any, tokens: Any) -> list[Any]:
    """Give each row its `told` of these tokens; the arrays to compute. asking: with places in the batch."""
    places = mx.array([index for index, _ in asking])
    mine = logits[places].astype(mx.float32)
    mine = mine - mx.logsumexp(mine, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(mine, tokens[places][:, None].astype(mx.int32), axis=-1)[:, 0]
    most = min(max(row.job.logprobs or 0 for _, row in asking), mine.shape[-1])
    ids = values = None
    if most:
        ids = mx.argpartition(-mine, kth=most - 1, axis=-1)[:, :most]
        values = mx.take_along_axis(mine, ids, axis=-1)
    for place, (_, row) in enumerate(asking):
        row.telling = Told(place, row.job.logprobs or 0, chosen, ids, values)
    return [chosen] if ids is None else [chosen, ids, values]
