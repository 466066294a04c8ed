"""What MLX really allocates. Run as a program, one JSON line for each case: the tests never import MLX.

    python -m tests.reconciler.forecast.measured FOLDER < cases.json

A case is a config, a prefill chunk and prompt lengths. The model is made of random float32 weights, saved,
loaded again as an engine would, and run by `BatchGenerator`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from appliance.engine.process import load_openblas

load_openblas()  # before MLX is imported: ten times faster

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.generate import BatchGenerator  # noqa: E402
from mlx_lm.utils import _get_classes, load_model  # noqa: E402

from appliance.engine import caches  # noqa: E402
from appliance.engine.quantized import QuantizedCache  # noqa: E402

OUTPUT = 4  # tokens


def save(config: dict[str, Any], folder: Path) -> None:
    """A model folder with random weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    kind, arguments = _get_classes(config)
    model = kind(arguments.from_dict(json.loads(json.dumps(config))))
    model.set_dtype(mx.float32)
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"}
    )


def measure(folder: Path, chunk: int, lengths: list[int], kv_bits: int | None = None) -> dict[str, int]:
    """Bytes: weights once loaded, the cache at its largest, the peak of everything."""
    before = mx.get_active_memory()
    model, config = load_model(folder)
    mx.eval(model.parameters())
    mx.clear_cache()
    weights = mx.get_active_memory() - before
    mx.reset_peak_memory()
    generator = BatchGenerator(model, max_tokens=OUTPUT, prefill_step_size=chunk, prefill_batch_size=8)
    words = config.get("vocab_size") or config["text_config"]["vocab_size"]
    chance = random.Random(0)
    prompts = [[chance.randrange(words) for _ in range(length - OUTPUT)] for length in lengths]
    empty = [caches.make(model, kv_bits) for _ in lengths]
    generator.insert(prompts, max_tokens=[OUTPUT] * len(lengths), caches=empty)
    finished, cache = 0, 0
    while finished < len(lengths):
        _, rows = generator.next()
        cache = max(cache, generator.prompt_cache_nbytes)
        finished += sum(row.finish_reason is not None for row in rows)
    peak = mx.get_peak_memory() - before
    del generator, model
    mx.clear_cache()
    return {"weights": weights, "cache": cache, "peak": peak}


def quantized(bits: int, heads: int, width: int, tokens: int) -> int:
    """Bytes of one layer's cache of so many tokens, quantized from half precision."""
    cache = QuantizedCache(bits)
    cache.update_and_fetch(*(mx.zeros((1, heads, tokens, width), mx.float16) for _ in range(2)))
    return cache.nbytes


def main() -> None:
    folder = Path(sys.argv[1])
    for number, case in enumerate(json.load(sys.stdin)):
        if "bits" in case:
            print(json.dumps({"cache": quantized(**case)}), flush=True)
            continue
        place = folder / str(number)
        save(case["config"], place)
        seen = measure(place, case["chunk"], case["lengths"], case.get("kv_bits"))
        print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
