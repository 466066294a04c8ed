"""Where an encoder's time goes: each kind of operation by itself, in the sizes that a batch of 32 has.

    python -m bench.embed_profile FOLDER

Prints JSON: the share of the whole pass. What is left over is `the rest`: adding up, reshaping, pooling and
the way through Python.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from appliance.engine import process

process.load_openblas()  # before MLX comes in

import mlx.core as mx  # noqa: E402

from appliance import wire  # noqa: E402
from appliance.engine import weights  # noqa: E402
from appliance.engine.encoders import load  # noqa: E402
from appliance.engine.encoders.kernels import kernels  # noqa: E402
from bench.embed import texts  # noqa: E402

ROUNDS = 7


def best(run: Callable[[], Any]) -> float:
    """Seconds of the quickest of some runs."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        mx.eval(run())
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    folder = Path(sys.argv[1])
    order = wire.Load("bench", str(folder), role="embedding")
    config = weights.check(order)
    model = load.load(order, config, lambda done, total: None)
    items = sorted(model.tokens.texts(texts(32, 1), model.context_max, truncate=True), key=len)
    whole = best(lambda: mx.array(model.run(items)))
    tokenising = best(
        lambda: mx.array(len(model.tokens.texts(texts(32, 1), model.context_max, truncate=True)))
    )
    rows, tokens = len(items), max(map(len, items))
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    net: Any = model.net
    block = net.layers[0]
    x = mx.random.normal((rows, tokens, width))
    y = mx.random.normal((rows, tokens, inner))
    q = mx.random.normal((rows, heads, tokens, width // heads))
    mx.eval(x, y, q)
    parts = {
        "matrix products": sum(best(partial(layer, given)) for layer, given in _products(block, x, y)),
        "activation": best(lambda: block._activation(y)),
        "attention": best(lambda: kernels().attention(q, q, q, None)),
        "layer normalisation": 2 * best(lambda: block.norm1(x)),
    }
    shares = {name: layers * seconds / whole for name, seconds in parts.items()}
    shares["the rest"] = 1 - sum(shares.values())
    shares["beside it, tokenising"] = tokenising / whole
    print(json.dumps(shares))


def _products(block: Any, x: mx.array, y: mx.array) -> list[tuple[Any, mx.array]]:
    return [(block.qkv, x), (block.out, x), (block.up, x), (block.down, y)]


if __name__ == "__main__":
    main()
