"""What the rows of a batch may pick next, as one mask over their logits.

llguidance fills one bit per token for all rows in threads of its own, without Python's lock. The bits are
unpacked by numpy (0.1 ms for eight rows of 150,000 tokens) and applied by one `mx.where`: llguidance's own
kernel for that is for Metal alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core
import numpy as np

from appliance.engine.constraint import compiler
from appliance.engine.constraint.guide import astray

if TYPE_CHECKING:
    from appliance.engine.row import Row

mx: Any = mlx.core


def apply(guided: Sequence[tuple[int, Row]], logits: Any) -> Any:
    """Logits with everything that must not come at minus infinity; a row that cannot go on has `failed` set.

    guided: rows that follow something, with their places. logits: (rows, vocabulary).
    """
    allowed: Any = None
    matching: list[tuple[int, Row]] = []
    for index, row in guided:
        guide = row.guide
        if guide is None or row.failed is not None or guide.ended:
            continue
        if guide.forced is None and not guide.matching and not guide.banned:
            continue
        if allowed is None:
            allowed = np.ones(logits.shape, dtype=np.bool_)
        if guide.forced is not None:
            allowed[index] = False
            allowed[index, guide.forced] = True
        elif guide.matching:
            matching.append((index, row))
        else:
            allowed[index, list(guide.banned)] = False
    if allowed is None:
        return logits
    if matching:
        _fill(matching, allowed)
    return mx.where(mx.array(allowed), logits, mx.array(-mx.inf, dtype=logits.dtype))


def _fill(matching: Sequence[tuple[int, Row]], allowed: Any) -> None:
    guides = [row.guide for _, row in matching if row.guide is not None]
    width = guides[0].width
    bits = compiler.fill([guide.matcher for guide in guides], width)
    width = min(width, allowed.shape[1])
    for (index, row), guide, mine in zip(matching, guides, bits, strict=True):
        if guide.matcher is not None and guide.matcher.is_error():
            row.failed = str(astray(guide.matcher))
            continue
        allowed[index] = False
        allowed[index, :width] = mine[:width]
        if guide.also is not None:
            allowed[index, guide.also] = True
        if not allowed[index].any():
            row.failed = "its grammar allows none of the model's tokens here"
            allowed[index] = True
