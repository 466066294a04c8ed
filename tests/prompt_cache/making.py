"""Texts, blocks and stores for the tests of the disk tier."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.prompt_cache import folder, keys
from appliance.prompt_cache.format import Array, Kind, Loaded, Payload, Record
from appliance.prompt_cache.register import Gone, Written
from appliance.prompt_cache.store import Store

NAMESPACE = "0123456789abcdef" * 2
PATIENCE = 20.0  # seconds; a deadline, not a wait
META = {"offset": "7", "class": "KVCache"}


def ids(first: int, count: int) -> bytes:
    return array("I", range(first, first + count)).tobytes()


def record(
    parent: bytes | None = None,
    first: int = 0,
    count: int = keys.BLOCK,
    start: int = 0,
    kind: Kind = "block",
    namespace: str = NAMESPACE,
    scope: str = "",
) -> Record:
    parent = keys.root(namespace, scope) if parent is None else parent
    tokens = ids(first, count)
    name = keys.block if kind == "block" else keys.state
    return Record(name(parent, tokens), parent, kind, start, tokens, scope)


def text(blocks: int, first: int = 0, namespace: str = NAMESPACE) -> list[Record]:
    """The whole blocks of one text."""
    made: list[Record] = []
    for number in range(blocks):
        parent = made[-1].key if made else None
        made.append(
            record(parent, first + number * keys.BLOCK, start=number * keys.BLOCK, namespace=namespace)
        )
    return made


def payload(nbytes: int = 4096, seed: int = 1) -> Payload:
    """Two tensors that differ for each seed."""
    half = nbytes // 2 // 4 * 4
    data = (seed.to_bytes(4, "little") * (half // 4 + 1))[:half]
    return {
        "0.keys": Array("F32", (1, half // 4), memoryview(bytearray(data))),
        "0.values": Array("BF16", (half // 2,), memoryview(bytearray(data[::-1]))),
    }


def contents(payload: Payload) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (a.dtype, a.shape, bytes(a.data)) for name, a in payload.items()}


def path_of(root: Path, record: Record, namespace: str = NAMESPACE) -> Path:
    return Path(folder.block_path(root / folder.LAYOUT / namespace, record.key))


class Shop:
    """A store whose news are collected, and waited for."""

    def __init__(self, root: Path, quota: int = 2**30, namespace: str = NAMESPACE, **options: Any) -> None:
        self.root, self.namespace = root, namespace
        self.store = Store(root, namespace, {"model": "daily"}, **options)
        self.seen: list[Written | Gone] = []
        self.store.configure(quota)

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, (self.seen, self.store.use())
            time.sleep(0.002)

    def news(self) -> list[Written | Gone]:
        self.seen += self.store.news()
        return self.seen

    def put(self, *records: Record, nbytes: int = 4096) -> None:
        """Write these and wait until they are."""
        for made in records:
            before = len(self.news())
            assert self.store.put(made, payload(nbytes, made.key[0]), META)
            self.until(lambda: any(n.key == made.key for n in self.news()[before:]))  # noqa: B023 - waited for

    def read(self, wanted: Sequence[bytes]) -> dict[bytes, Loaded | None]:
        answers: list[dict[bytes, Loaded | None]] = []
        self.store.read(wanted, answers.append)
        self.until(lambda: answers)
        return answers[0]

    def has(self, *records: Record) -> list[bool]:
        return [path_of(self.root, made, self.namespace).exists() for made in records]

    def failed(self) -> str:
        """Why, once the tier is."""
        self.until(lambda: self.store.use().state == "failed")
        return self.store.use().why or ""

    def settle(self) -> None:
        """Until times of use and deletions are on disk: they go before small files."""
        done: list[bool] = []

        def make() -> bytes:
            done.append(True)
            return b"{}"

        self.until(lambda: not self.store._shrink)
        self.store.save("sessions/settle.json", make, 0.0)
        self.until(lambda: done)


@contextmanager
def shop(root: Path, **options: Any) -> Iterator[Shop]:
    made = Shop(root, **options)
    try:
        yield made
    finally:
        made.store.close(5.0)
