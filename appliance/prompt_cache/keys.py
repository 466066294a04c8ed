"""Names for cached bytes: equal names mean equal bytes, whoever computed them and when.

A key is `blake2b-128` (RFC 7693) over the parent's key and the token ids, so it stands for the whole text up
to its end. The first parent is the root of a scope, and the root depends on the namespace: on everything that
decides what a model computes for a text. Two fine-tunes of one architecture have equal file names, sizes and
headers, so a sample of every tensor's bytes goes in as well; reading whole weights twice at each start would
cost more than the cache saves.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

FORMAT = 1  # of what a block or state holds; another number is another namespace
BLOCK = 256  # tokens
SIZE = 16  # bytes of a key
SAMPLE = 64  # bytes read of a tensor, at its beginning and from its middle
HEADER_LIMIT = 100_000_000  # bytes; safetensors' own limit


def namespace(model: Path, adapter: Path | None, kv_bits: int | None) -> str:
    """32 hexadecimal digits for all that the cached bytes depend on besides the text.

    The classes of the caches need no mention: they follow from the model's config and code and mlx-lm's
    version. Raises OSError where a file cannot be read, ValueError where one is no safetensors file.
    """
    digest = blake2b(digest_size=SIZE, person=b"lmx namespace")
    add(digest, json.dumps([FORMAT, kv_bits, version("mlx-lm"), adapter is not None]).encode())
    add(digest, (model / "config.json").read_bytes())
    for code in sorted(model.glob("*.py")):  # a model may bring its own
        add(digest, code.name.encode(), code.read_bytes())
    for weights in sorted(model.glob("*.safetensors")):
        add(digest, weights.name.encode(), *samples(weights))
    if adapter is not None:
        for path in sorted(path for path in adapter.iterdir() if path.is_file()):
            add(digest, path.name.encode(), path.read_bytes())
    return digest.hexdigest()


def add(digest: blake2b, *parts: bytes) -> None:
    """Each with its length before it, so that no two lists of parts look alike."""
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)


def samples(path: Path) -> Iterator[bytes]:
    """Size, header, and some bytes of every tensor. Format: see `engine/weights.py`."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        yield struct.pack("<Q", size)
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
        if length > min(size, HEADER_LIMIT):
            raise ValueError(f"{path} is not a safetensors file, or was cut short")
        header = file.read(length)
        yield header
        for name, tensor in sorted(json.loads(header).items()):
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            for at in (begin, (begin + end) // 2):
                yield os.pread(file.fileno(), min(SAMPLE, end - at), 8 + length + at)


def root(namespace: str, scope: str) -> bytes:
    """The parent of a text's first block. scope: whose texts; empty: everybody's."""
    return blake2b(f"{namespace}\0{scope}".encode(), digest_size=SIZE, person=b"lmx root").digest()


def block(parent: bytes, tokens: bytes) -> bytes:
    """The key of a block. tokens: ids, little-endian uint32."""
    return blake2b(parent + tokens, digest_size=SIZE, person=b"lmx block").digest()


def state(parent: bytes, tokens: bytes) -> bytes:
    """The key of a state that holds `tokens` (0 to 255 of them) beyond its parent."""
    return blake2b(parent + tokens, digest_size=SIZE, person=b"lmx state").digest()
