"""The least of HTTP that a load generator needs: one request per connection, nothing parsed twice."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """head: as it came, lower case. body: chunks and all where it was streamed."""

    status: int
    head: bytes
    body: bytes

    @property
    def code(self) -> str:
        """Of an error; "" where there is none to be read."""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key == name.encode():
                return value.strip().decode()
        return None


def request(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


async def begin(port: int, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(request(path, body))
    return reader, writer


async def post(port: int, path: str, body: Any) -> Answer:
    reader, writer = await begin(port, path, body)
    try:
        whole = await reader.read(-1)
    finally:
        writer.close()
    head, _, rest = whole.partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ", 2)[1]), head.lower(), rest)


def get_json(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.loads(answer.read())
