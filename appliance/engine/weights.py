"""Check a model folder before a byte of weights is read.

A download that was cut short looks like a good file until MLX reads past its end, minutes into a load.
The safetensors header says how long the file must be, so the check costs a few kilobytes per file.
Format: eight bytes little-endian header length, JSON header with `data_offsets`, then the data
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from appliance.wire import Load

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class BadModel(Exception):
    """The files cannot be loaded. `code` is one of LoadFailed's; `permanent`: the same files never can."""

    def __init__(self, code: str, message: str, *, permanent: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.permanent = permanent


def read_json(path: Path, code: str) -> dict[str, Any]:
    """A JSON object from a file; BadModel(code) with line and column otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadModel(
            code, f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise BadModel(code, f"{path} is not text in UTF-8: {error}") from error
    except OSError as error:
        raise BadModel(code, f"cannot read {path}: {error.strerror}", permanent=False) from error
    if not isinstance(value, dict):
        raise BadModel(code, f"{path} must hold a JSON object")
    return value


def check(order: Load) -> dict[str, Any]:
    """The folder's config.json, once all that the load needs is known to be there. Raises BadModel.

    Needs no MLX, whose import takes a second, so that a wrong folder is known at once.
    """
    config = check_folder(Path(order.path))
    if config.get("model_file") is not None and not order.trust_remote_code:
        raise BadModel(
            "unsupported_model",
            f"this model brings its own code ({config['model_file']}); "
            "set `trust_remote_code: true` for it if you trust that code",
        )
    if order.adapter is not None:
        check_adapter(Path(order.adapter))
    return config


def check_adapter(adapter: Path) -> None:
    """A LoRA adapter in mlx-lm's format has these two files."""
    for name in ("adapter_config.json", "adapters.safetensors"):
        if not (adapter / name).is_file():
            raise BadModel("bad_adapter", f"the adapter folder {adapter} has no {name}")
    read_json(adapter / "adapter_config.json", "bad_adapter")
    try:
        check_file(adapter / "adapters.safetensors")
    except BadModel as error:
        raise BadModel("bad_adapter", error.message, permanent=error.permanent) from error


def check_folder(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadModel("missing_weights", f"there is no model folder at {folder}")
    if not (folder / "config.json").is_file():
        raise BadModel("unsupported_model", f"{folder} has no config.json, so it is not a model folder")
    config = read_json(folder / "config.json", "unsupported_model")
    if not isinstance(config.get("model_type"), str):
        raise BadModel("unsupported_model", f"{folder / 'config.json'} names no model_type")
    files = sorted(folder.glob("model*.safetensors"))
    check_index(folder, {file.name for file in files})
    if not files:
        raise BadModel("missing_weights", no_weights(folder))
    for file in files:
        check_file(file)
    return config


def no_weights(folder: Path) -> str:
    pickled = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickled:
        return (
            f"{folder} has weights only as {pickled[0]}, a format that can carry code; "
            "convert the model to safetensors (`mlx_lm.convert`) and use that folder"
        )
    return f"{folder} has no weights (no file matches model*.safetensors)"


def check_index(folder: Path, present: set[str]) -> None:
    """Every shard that the index names must be there: a missing one fails late and unclearly."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    mapping = read_json(index, "corrupt_weights").get("weight_map")
    if not isinstance(mapping, dict):
        raise BadModel("corrupt_weights", f"{index} has no weight_map")
    missing = sorted({str(name) for name in mapping.values()} - present)
    if missing:
        raise BadModel(
            "missing_weights",
            f"{folder} lacks {len(missing)} of the weight files its index names, first {missing[0]}",
        )


def check_file(file: Path) -> None:
    """Raises BadModel when the file is shorter than its own header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= HEADER_LIMIT:
                raise BadModel("corrupt_weights", f"{file} is not a safetensors file")
            raw = stream.read(length)
    except OSError as error:
        raise BadModel("missing_weights", f"cannot read {file}: {error.strerror}", permanent=False) from error
    if len(raw) < length:
        raise BadModel("corrupt_weights", cut_short(file, 8 + length, size))
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadModel("corrupt_weights", f"the safetensors header of {file} is damaged") from error
    if size < needed:
        raise BadModel("corrupt_weights", cut_short(file, needed, size))


def cut_short(file: Path, needed: int, size: int) -> str:
    return f"{file} is cut short: {size} of {needed} bytes are there; fetch it again"
