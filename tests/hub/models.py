"""Model folders made of bytes: right ones, and ones that are wrong in one way."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path

CONFIG = {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def safetensors(tensors: Mapping[str, tuple[str, list[int], int]], seed: int = 0) -> bytes:
    """A file of random content. tensors: name -> dtype, shape, bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + random.Random(seed).randbytes(at)


def weights(kib: int = 4, name: str = "a", seed: int = 0) -> bytes:
    """One F32 tensor of so many KiB."""
    return safetensors({f"{name}.weight": ("F32", [kib, 256], kib * 1024)}, seed)


def model(kib: int = 4, seed: int = 0) -> dict[str, bytes]:
    """The files of a small whole model."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors": weights(kib, seed=seed),
    }


def sharded(kib: int = 4) -> dict[str, bytes]:
    """A model in two files with an index."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": {"a.weight": first, "b.weight": second}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        first: weights(kib, "a", 1),
        second: weights(kib, "b", 2),
    }


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
