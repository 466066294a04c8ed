"""One block or state as a safetensors file, and back, with every byte accounted for.

    8 bytes      length of the header, little-endian
    header       JSON: `__metadata__` (strings: whose, which, where, checksums) and the table of tensors
    data         the tensors, without gaps, those of wide elements first so that all are aligned

Written and read by these few lines and not by the safetensors library, so that bytes go straight between
the file and the buffers that hold them; any safetensors reader opens the files all the same.

Two xxh3-128 checksums: of the data, and of what the header *means*. A file that does not match is never
believed. They are against accidents (a torn file after a power cut, a bad disk); against people there are the
folder's rights. Source of the format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from typing import Any, Literal

import xxhash

from appliance.prompt_cache import keys

FORMAT = 1
HEADER_MOST = 4 * 2**20  # bytes; a model of 200 layers needs about 60,000
PIECE = 2**20  # bytes read, written or hashed at a time; the interpreter's lock is free during each
LARGE = 4 * 2**20  # bytes; buffers from here on are made of fresh pages

SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}

Kind = Literal["block", "state"]


class Damaged(Exception):
    """Not a file that we wrote for this key and namespace. The message says why, without contents."""


class Newer(Exception):
    """Written by a later version of the format: to be left alone."""


@dataclass(frozen=True)
class Record:
    """What a file holds, in terms of the text.

    key: `keys.block(parent, tokens)` or `keys.state(parent, tokens)`. parent: the whole 256-token block
    before it, or the scope's root. start: position of tokens[0] in the text, a multiple of 256.
    tokens: ids, little-endian uint32; a block: 1 to 256; a state: 0 to 255, from `start` to its position.
    """

    key: bytes
    parent: bytes
    kind: Kind
    start: int
    tokens: bytes
    scope: str


@dataclass(frozen=True)
class Array:
    """One tensor in host memory. dtype: safetensors' name. data: its C-contiguous bytes.

    When written, `data` is kept alive until then; when read, it is a read-only window on one buffer per file.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


Payload = Mapping[str, Array]


@dataclass(frozen=True)
class Loaded:
    """A file's contents, verified."""

    record: Record
    payload: Payload
    meta: Mapping[str, str]


@dataclass(frozen=True)
class Header:
    """A verified header. data_bytes: what must follow it; nbytes: of the whole file."""

    record: Record
    meta: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...], int, int]]  # dtype, shape, begin, end
    checksum: str
    data_bytes: int
    nbytes: int


# --- writing --------------------------------------------------------------------------------------


def check(record: Record, payload: Payload, namespace: str) -> int:
    """Bytes of data in `payload`. ValueError where it or the record is not what it says."""
    if why := wrong(record, namespace):
        raise ValueError(why)
    total = 0
    for name, array in payload.items():
        if array.dtype not in SIZES:
            raise ValueError(f"{name}: {array.dtype} is no dtype of safetensors")
        nbytes = math.prod(array.shape) * SIZES[array.dtype]
        if array.data.nbytes != nbytes or not array.data.c_contiguous or name == "__metadata__":
            raise ValueError(f"{name}: {array.data.nbytes} bytes, {array.dtype} {array.shape} has {nbytes}")
        total += nbytes
    return total


def encode(
    record: Record, payload: Payload, meta: Mapping[str, str], namespace: str
) -> tuple[bytes, list[memoryview]]:
    """The file's head (length and header) and its data, in order. Hashes all of it: not for a hot path."""
    order = sorted(payload, key=lambda name: (-SIZES[payload[name].dtype], name))
    views = [payload[name].data.cast("B") for name in order if payload[name].data.nbytes]
    digest = xxhash.xxh3_128()
    for view in views:
        for at in range(0, len(view), PIECE):
            digest.update(view[at : at + PIECE])
    tensors: dict[str, Any] = {}
    end = 0
    for name in order:
        begin, end = end, end + payload[name].data.nbytes
        array = payload[name]
        tensors[name] = {"dtype": array.dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    about = {
        "lmx_format": str(FORMAT),
        "namespace": namespace,
        "key": record.key.hex(),
        "parent": record.parent.hex(),
        "kind": record.kind,
        "start": str(record.start),
        "tokens": record.tokens.hex(),
        "scope": record.scope,
        "meta": json.dumps(dict(meta), sort_keys=True),
        "data_xxh3": digest.hexdigest(),
    }
    about["header_xxh3"] = _meaning(about, tensors)
    header = json.dumps({"__metadata__": about, **tensors}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > HEADER_MOST:
        raise ValueError(f"a header of {len(header)} bytes is over the limit of {HEADER_MOST}")
    return len(header).to_bytes(8, "little") + header, views


def pieces(head: bytes, views: list[memoryview]) -> Iterator[list[memoryview]]:
    """The file's bytes in groups of about PIECE, for one gathered write each."""
    group: list[memoryview] = [memoryview(head)]
    room = PIECE - len(head)
    for view in views:
        at = 0
        while at < len(view):
            if room <= 0 or len(group) >= 512:  # the least IOV_MAX of our platforms is 1024
                yield group
                group, room = [], PIECE
            group.append(view[at : at + room])
            at += len(group[-1])
            room -= len(group[-1])
    yield group


# --- reading --------------------------------------------------------------------------------------


def read_header(file: FileIO, size: int, namespace: str) -> Header:
    """The verified header of an open file of `size` bytes, and that as many bytes of data follow.

    Raises Damaged, Newer, or OSError.
    """
    first = file.read(min(size, 16 * 1024)) or b""
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or not 2 <= length <= min(HEADER_MOST, size - 8):
        raise Damaged("the length of its header cannot be right")
    while len(first) < 8 + length:
        more = file.read(8 + length - len(first))
        if not more:
            raise Damaged("it is cut short")
        first += more
    file.seek(8 + length)
    try:
        table = json.loads(first[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise Damaged("its header is not JSON") from error
    about = table.pop("__metadata__", None) if isinstance(table, dict) else None
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise Damaged("its header has no metadata")
    version = about.get("lmx_format", "")
    if version != str(FORMAT):
        if version.isdecimal() and version.isascii() and len(version) < 6 and int(version) > FORMAT:
            raise Newer(version)
        raise Damaged("it is of another format")
    try:
        matches = about.pop("header_xxh3", None) == _meaning(about, table)
    except RecursionError as error:
        raise Damaged("its header is nested too deeply") from error
    if not matches:
        raise Damaged("its header does not match its checksum")
    if about.get("namespace") != namespace:
        raise Damaged("it is of another namespace")
    record = _record(about, namespace)
    tensors, data_bytes = _tensors(table)
    if size != 8 + length + data_bytes:
        raise Damaged(f"it has {size} bytes where {8 + length + data_bytes} are right")
    return Header(record, _meta(about), tensors, about.get("data_xxh3", ""), data_bytes, size)


def read(file: FileIO, size: int, namespace: str, key: bytes) -> Loaded:
    """The whole verified file. Raises Damaged, Newer, or OSError."""
    header = read_header(file, size, namespace)
    if header.record.key != key:
        raise Damaged("it is of another key")
    whole = _buffer(header.data_bytes)
    digest = xxhash.xxh3_128()
    at = 0
    while at < header.data_bytes:
        got = file.readinto(whole[at : at + PIECE])
        if not got:
            raise Damaged("it is cut short")
        digest.update(whole[at : at + got])  # while the piece is in the processor's cache
        at += got
    if digest.hexdigest() != header.checksum:
        raise Damaged("its data does not match its checksum")
    whole = whole.toreadonly()
    payload = {
        name: Array(dtype, shape, whole[begin:end])
        for name, (dtype, shape, begin, end) in header.tensors.items()
    }
    return Loaded(header.record, payload, header.meta)


def wrong(record: Record, namespace: str) -> str | None:
    """Why this record cannot be in this namespace, or None."""
    count, odd = divmod(len(record.tokens), 4)
    if len(record.key) != keys.SIZE or len(record.parent) != keys.SIZE or odd:
        return "keys have 16 bytes, and tokens 4 each"
    if record.start < 0 or record.start % keys.BLOCK:
        return f"start {record.start} is not on the grid of {keys.BLOCK} tokens"
    if record.kind == "block":
        fits, name = 1 <= count <= keys.BLOCK, keys.block
    else:
        fits, name = 0 <= count < keys.BLOCK, keys.state
    if not fits:
        return f"a {record.kind} of {count} tokens"
    if name(record.parent, record.tokens) != record.key:
        return "its key is not that of its tokens"
    if record.start == 0 and record.parent != keys.root(namespace, record.scope):
        return "its parent is not the root of its scope"
    return None


def _record(about: dict[str, str], namespace: str) -> Record:
    try:
        record = Record(
            key=bytes.fromhex(about["key"]),
            parent=bytes.fromhex(about["parent"]),
            kind="state" if about["kind"] == "state" else "block",
            start=int(about["start"]),
            tokens=bytes.fromhex(about["tokens"]),
            scope=about["scope"],
        )
        why = wrong(record, namespace)
    except (KeyError, ValueError) as error:
        raise Damaged("its record cannot be read") from error
    if record.kind != about["kind"] or why:
        raise Damaged("its record contradicts itself")
    return record


def _meta(about: dict[str, str]) -> dict[str, str]:
    try:
        meta = json.loads(about["meta"])
    except (KeyError, ValueError, RecursionError) as error:
        raise Damaged("its metadata cannot be read") from error
    if not isinstance(meta, dict) or not all(isinstance(text, str) for text in meta.values()):
        raise Damaged("its metadata cannot be read")
    return meta


def _tensors(table: dict[str, Any]) -> tuple[dict[str, tuple[str, tuple[int, ...], int, int]], int]:
    """The table of tensors, which must cover the data without gap or overlap; and the bytes of data."""
    tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for name, row in table.items():
        match row:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
                if dtype not in SIZES or not all(type(n) is int and n >= 0 for n in shape):
                    raise Damaged("a tensor's type or shape cannot be")
                if end - begin != math.prod(shape) * SIZES[dtype]:
                    raise Damaged("a tensor's shape does not match its bytes")
                tensors[name] = (dtype, tuple(shape), begin, end)
            case _:
                raise Damaged("its table of tensors cannot be read")
    at = 0
    for _, _, begin, end in sorted(tensors.values(), key=lambda row: row[2:]):
        if begin != at:
            raise Damaged("its tensors overlap or leave a gap")
        at = end
    return tensors, at


def _meaning(about: Mapping[str, str], tensors: Mapping[str, Any]) -> str:
    """Checksum of what a header says, whatever its spacing and order."""
    canonical = json.dumps([about, tensors], sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode())


def _buffer(nbytes: int) -> memoryview:
    """Room for `nbytes`. A bytearray is set to zero under the interpreter's lock: too long where it is large.

    Fresh pages come without that. On Linux they are asked for as huge ones: half of the time to read
    and check 25 MiB went into faults of 4 KiB each (19 ms against 10 on two cores at 3 GHz).
    """
    if nbytes < LARGE:
        return memoryview(bytearray(nbytes))
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
