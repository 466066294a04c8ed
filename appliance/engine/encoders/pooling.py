"""From token vectors to one vector, as a model's own files say: sentence-transformers' modules.json.

A wrong guess here gives vectors that look right and find nothing, so there is none: a folder that does not
say how it pools is refused. Every vector is normalised at the end, whether the files name that step or not:
clients of this API compare by dot product, and cosines do not change by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from appliance.engine.encoders.heads import last
from appliance.engine.weights import BadModel, read_json

LAST_TOKEN_TYPES = frozenset({"qwen3"})  # causal: only the last token has seen all others
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": mx.tanh,
}


@dataclass(frozen=True)
class Dense:
    weight: mx.array
    bias: mx.array | None
    activation: Callable[[mx.array], mx.array]

    def __call__(self, x: mx.array) -> mx.array:
        x = x @ self.weight.T
        return self.activation(x if self.bias is None else x + self.bias)


@dataclass(frozen=True)
class Pooling:
    """modes: their vectors one behind the other. dense: layers upon that."""

    modes: tuple[str, ...]
    dense: tuple[Dense, ...] = ()

    def __call__(self, hidden: mx.array, lengths: list[int]) -> mx.array:
        parts = [pool(mode, hidden, lengths) for mode in self.modes]
        x = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)
        for layer in self.dense:
            x = layer(x)
        return x

    def dimensions(self, width: int) -> int:
        return int(self.dense[-1].weight.shape[0]) if self.dense else width * len(self.modes)


def pool(mode: str, hidden: mx.array, lengths: list[int]) -> mx.array:
    """rows x tokens x width to rows x width, in float32. Raises ValueError for an unknown mode."""
    if mode == "cls":
        return hidden[:, 0].astype(mx.float32)
    if mode == "lasttoken":
        return last(hidden, lengths).astype(mx.float32)
    hidden = hidden.astype(mx.float32)
    counts = mx.array(lengths, dtype=mx.float32)[:, None]
    inside = mx.arange(hidden.shape[1])[None, :] < mx.array(lengths)[:, None]
    if mode == "max":
        return mx.where(inside[..., None], hidden, -mx.inf).max(axis=1)
    weights = inside.astype(mx.float32)
    if mode == "weightedmean":  # SGPT: later tokens count more
        weights = weights * mx.arange(1, hidden.shape[1] + 1)[None, :]
        counts = weights.sum(axis=1, keepdims=True)
    elif mode == "mean_sqrt_len_tokens":
        counts = mx.sqrt(counts)
    elif mode != "mean":
        raise ValueError(f"no such pooling: {mode}")
    return (weights[:, None, :] @ hidden)[:, 0] / counts


def read(folder: Path, model_type: str, width: int) -> Pooling:
    """Raises BadModel."""
    modules = _modules(folder)
    if modules is None:
        if model_type in LAST_TOKEN_TYPES:
            return Pooling(("lasttoken",))
        raise _unsupported(
            f"{folder} does not say how token vectors become one: it has no modules.json with a Pooling "
            "module; copy modules.json and the folders it names from the original model"
        )
    pooling: Pooling | None = None
    dense: list[Dense] = []
    for index, (kind, path) in enumerate(modules):
        if kind == "Transformer" and index == 0 and path == "":
            continue
        if kind == "Pooling" and pooling is None:
            pooling = _pooling(folder / path)
        elif kind == "Dense" and pooling is not None:
            dense.append(_dense(folder / path))
        elif kind != "Normalize":
            raise _unsupported(
                f"modules.json of {folder} names a module that is not supported: {kind} {path}"
            )
    if pooling is None:
        raise _unsupported(f"modules.json of {folder} names no Pooling module")
    found = Pooling(pooling.modes, tuple(dense))
    size = width * len(found.modes)
    for layer in found.dense:
        if layer.weight.shape[1] != size:
            raise BadModel("corrupt_weights", f"a Dense module of {folder} does not fit the module before it")
        size = int(layer.weight.shape[0])
    return found


def default_prompt(folder: Path) -> str:
    """What the model's own config puts before every text; mostly nothing. Raises BadModel."""
    file = folder / "config_sentence_transformers.json"
    if not file.is_file():
        return ""
    said = read_json(file, "unsupported_model")
    name, prompts = said.get("default_prompt_name"), said.get("prompts")
    if name is None or not isinstance(prompts, dict):
        return ""
    prompt = prompts.get(name)
    if not isinstance(prompt, str):
        raise _unsupported(f"{file} names the default prompt {name!r}, which it does not hold")
    return prompt


def _modules(folder: Path) -> list[tuple[str, str]] | None:
    """(last part of the type, folder) of each module, in order."""
    file = folder / "modules.json"
    if not file.is_file():
        return None
    try:
        entries: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unsupported(f"{file} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _unsupported(f"{file} must hold a list of modules")
    found = []
    for entry in entries:
        kind, path = str(entry.get("type", "")).rsplit(".", 1)[-1], str(entry.get("path", ""))
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise _unsupported(f"{file} names a folder outside the model's own: {path}")
        found.append((kind, path))
    return found


def _pooling(folder: Path) -> Pooling:
    said = read_json(folder / "config.json", "unsupported_model")
    named = said.get("pooling_mode")
    modes: list[Any] = [named] if isinstance(named, str) else list(named or [])
    modes = modes or [mode for flag, mode in _FLAGS.items() if said.get(flag)] or ["mean"]
    strange = [mode for mode in modes if mode not in MODES]
    if strange:
        raise _unsupported(f"{folder} asks for a pooling that is not supported: {strange[0]}")
    if said.get("include_prompt") is False:
        raise _unsupported(f"{folder} leaves prompts out of its pooling, which is not supported")
    return Pooling(tuple(modes))


def _dense(folder: Path) -> Dense:
    said = read_json(folder / "config.json", "unsupported_model")
    name = str(said.get("activation_function"))
    if name not in _ACTIVATIONS or said.get("use_residual"):
        raise _unsupported(f"{folder} asks for a dense layer that is not supported: {name}")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise BadModel("missing_weights", f"{folder} has no model.safetensors")
    weights = mx.load(str(file))
    if not isinstance(weights, dict) or "linear.weight" not in weights:
        raise BadModel("corrupt_weights", f"{file} has no linear.weight")
    weight, bias = weights["linear.weight"].astype(mx.float32), weights.get("linear.bias")
    return Dense(weight, None if bias is None else bias.astype(mx.float32), _ACTIVATIONS[name])


def _unsupported(message: str) -> BadModel:
    return BadModel("unsupported_model", message)
