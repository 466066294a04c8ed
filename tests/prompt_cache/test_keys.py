"""A namespace is another one as soon as anything that is computed could be another."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.prompt_cache.keys import namespace

SIZE = 4000  # bytes of each tensor


def write(folder: Path, *, fill: bytes = b"\x07") -> Path:
    """A model of two tensors, as files go."""
    folder.mkdir()
    table = {
        "one": {"dtype": "U8", "shape": [SIZE], "data_offsets": [0, SIZE]},
        "__metadata__": {"format": "mlx"},
        "two": {"dtype": "U8", "shape": [SIZE], "data_offsets": [SIZE, 2 * SIZE]},
        "none": {"dtype": "U8", "shape": [0], "data_offsets": [2 * SIZE, 2 * SIZE]},
    }
    header = json.dumps(table).encode()
    data = struct.pack("<Q", len(header)) + header + fill * 2 * SIZE
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text('{"model_type": "test"}')
    return folder


def poke(at: int) -> Callable[[Path], object]:
    def change(model: Path) -> None:
        path = model / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[len(data) - 2 * SIZE + at] ^= 1
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "change",
    [
        poke(0),
        poke(SIZE // 2 + 63),
        poke(SIZE),
        poke(SIZE + SIZE // 2),
        lambda model: (model / "config.json").write_text('{"model_type": "test", "rope_theta": 5}'),
        lambda model: (model / "modeling.py").write_text("pass"),
        lambda model: (model / "model.safetensors").rename(model / "other.safetensors"),
    ],
)
def test_another_model_is_another_namespace(tmp_path: Path, change: Callable[[Path], object]) -> None:
    model = write(tmp_path / "model")
    before = namespace(model, None, None)
    assert namespace(write(tmp_path / "copy"), None, None) == before, "wherever it lies"
    change(model)
    assert namespace(model, None, None) != before


def test_settings_and_adapters_are_told_apart(tmp_path: Path) -> None:
    model, adapter = write(tmp_path / "model"), write(tmp_path / "adapter")
    found = {namespace(model, None, bits) for bits in (None, 4, 8)}
    found.add(namespace(model, adapter, None))
    (adapter / "adapters.safetensors").write_bytes(b"\x01")
    found.add(namespace(model, adapter, None))
    assert len(found) == 5


def test_what_is_not_computed_with_does_not_matter(tmp_path: Path) -> None:
    model = write(tmp_path / "model")
    before = namespace(model, None, None)
    (model / "README.md").write_text("fine")
    os.utime(model / "model.safetensors", (1, 1))
    assert namespace(model, None, None) == before


@pytest.mark.parametrize("left", [0, 5, 40])
def test_files_that_are_no_weights_have_no_name(tmp_path: Path, left: int) -> None:
    model = write(tmp_path / "model")
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file"):
        namespace(model, None, None)
