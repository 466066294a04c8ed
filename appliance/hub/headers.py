"""What a safetensors file says of itself in its first bytes.

Format: eight bytes little-endian header length, a JSON header with `dtype`, `shape` and `data_offsets`
of each tensor, then the data (https://github.com/huggingface/safetensors#format). A download that was
cut short looks like a good file until MLX reads past its end, minutes into a load; the header says how
long the file must be, so the check costs a few kilobytes.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

LIMIT = 100_000_000  # bytes of JSON; the format's own limit
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class BadWeights(Exception):
    """The file cannot be loaded as it is. The message names the file and what to do."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises BadWeights where it is damaged or cut short, and OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= LIMIT:
            raise BadWeights(f"{file} is not a safetensors file (its header would be {length:,} bytes long)")
        if 8 + length > size:
            raise BadWeights(_cut_short(file, 8 + length, size))
        raw = stream.read(length)
    if len(raw) != length:
        raise BadWeights(_cut_short(file, 8 + length, 8 + len(raw)))
    try:
        tensors, end = _tensors(json.loads(raw))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadWeights(f"the safetensors header of {file} is damaged ({error}); fetch it again") from error
    if size < 8 + length + end:
        raise BadWeights(_cut_short(file, 8 + length + end, size))
    if size > 8 + length + end:
        raise BadWeights(
            f"{file} is longer than its header says ({size:,} of {8 + length + end:,} bytes); fetch it again"
        )
    return tensors


def _tensors(header: object) -> tuple[dict[str, Tensor], int]:
    """Tensors by name, and the bytes of data after the header. Raises ValueError, KeyError or TypeError."""
    if not isinstance(header, dict):
        raise TypeError("not an object")
    found: dict[str, Tensor] = {}
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
        numbers = (*shape, first, last)
        if not all(type(n) is int and n >= 0 for n in numbers) or last < first:
            raise ValueError(f"tensor {name!r} has impossible offsets")
        bits = DTYPE_BITS.get(entry["dtype"])
        if bits is not None and math.prod(shape) * bits != (last - first) * 8:
            raise ValueError(f"tensor {name!r} has {last - first} bytes for its shape")
        found[name] = Tensor(entry["dtype"], shape, last - first)
        end = max(end, last)
    return found, end


def parameters(tensors: dict[str, Tensor], group_size: int = 64) -> int:
    """How many weights the tensors stand for. Packed ones are counted as what they unpack to.

    MLX packs a quantized matrix into 32-bit words beside `.scales`, one scale per group of inputs.
    """
    total = 0
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        scales = tensors.get(f"{stem}.scales")
        if leaf == "weight" and tensor.dtype == "U32" and scales is not None:
            total += scales.elements * group_size
        elif leaf in ("scales", "biases") and f"{stem}.scales" in tensors:
            continue
        else:
            total += tensor.elements
    return total


def _cut_short(file: Path, needed: int, size: int) -> str:
    return f"{file} is cut short: {size:,} of {needed:,} bytes are there; fetch it again"
