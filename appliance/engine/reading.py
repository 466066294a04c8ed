"""Weights from lazy arrays to memory, with progress, and what a failure there means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from appliance.engine.weights import BadModel

PIECE = 64 * 2**20  # bytes of weights made real at a time: the grain of progress


def make_real(net: Any, progress: Callable[[int, int], None]) -> int:
    """Read the lazy parameters piece by piece; their size in bytes. Raises BadModel."""
    parameters = [array for _, array in tree_flatten(net.parameters())]
    total: int = sum(array.nbytes for array in parameters)
    progress(0, total)
    done, piece, size = 0, [], 0
    try:
        for array in parameters:
            piece.append(array)
            size += array.nbytes
            if size >= PIECE:
                mx.eval(piece)
                done, piece, size = done + size, [], 0
                progress(done, total)
        mx.eval(piece)
    except (RuntimeError, MemoryError) as error:
        if is_memory(error):
            raise out_of_memory(error) from error
        raise BadModel("corrupt_weights", f"the weights cannot be read: {error}") from error
    progress(total, total)
    return total


def is_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate" in text or "out of memory" in text


def out_of_memory(error: BaseException) -> BadModel:
    return BadModel("out_of_memory", f"not enough memory for the weights: {error}", permanent=False)
