"""Wired memory: a declared policy, set from here and nowhere else.

Wiring keeps weights in physical memory. Too much of it has taken whole machines down, and none at all makes
a model that nearly fills memory slow, so the operator decides (`memory.wired`). mlx-lm would decide by
itself, in each generator and trainer it starts.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import mlx.core as mx
import mlx_lm.generate  # noqa: F401  the module behind sys.modules["mlx_lm.generate"]

log = logging.getLogger(__name__)

# Every place in mlx-lm that sets the limit, by module and enclosing name. Those in `generate` go through
# the name that `suppress` replaces; an engine imports none of the others. A test compares this with the
# installed source.
KNOWN = {
    ("mlx_lm.utils", "maybe_set_recommended_wired_limit"),  # the one real call behind all others
    ("mlx_lm.generate", "wired_limit"),
    ("mlx_lm.generate", "BatchGenerator"),
    ("mlx_lm.quant.dwq", "main"),
    ("mlx_lm.server", "main"),
    ("mlx_lm.tuner.trainer", "train"),
}


def suppress() -> None:
    """Keep mlx-lm from wiring memory.

    `import mlx_lm.generate as g` yields the function of that name, hence the look into sys.modules.
    """
    for name in ("mlx_lm.generate", "mlx_lm.utils"):
        module: Any = sys.modules[name]
        module.maybe_set_recommended_wired_limit = lambda: None


def working_set() -> int:
    """Bytes that Metal recommends to hold at most; 0 where there is no Metal."""
    if not mx.metal.is_available():
        return 0
    return int(mx.device_info().get("max_recommended_working_set_size", 0))


def wire(limit: int) -> None:
    """Let MLX wire so many bytes; none for 0. Does nothing without Metal."""
    if not mx.metal.is_available():
        return
    try:
        mx.set_wired_limit(min(limit, working_set()))
    except (RuntimeError, ValueError) as error:  # an older system has no such thing
        log.warning("cannot wire %d bytes of memory: %s", limit, error)
