"""A client that sees everything: status line, each event, and whether the stream was cut.

Raw sockets on purpose. A comfortable HTTP library hides retries, reconnects and half-read bodies, and
those are what these tests are about.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One request's whole story. times: monotonic seconds of each event."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    events: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    done: bool = False  # `data: [DONE]` came
    ended: bool = False  # the last chunk came: the body was not cut
    error: str | None = None  # what the connection itself did wrong

    @property
    def text(self) -> str:
        choices = (choice for event in self.events for choice in event.get("choices", ()))
        return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def failure(self) -> str | None:
        """Why this is not a complete, successful answer; None if it is."""
        if self.error is not None:
            return self.error
        if self.status != 200:
            return f"{self.status} {self.body[:300]!r}"
        bad = [e for e in self.events if "error" in e]
        if bad:
            return f"error event {bad[0]}"
        if self.events and not self.done:
            return "no [DONE]"
        if not self.ended:
            return "cut"
        return None

    @property
    def engine(self) -> str | None:
        """Which engine answered."""
        return self.events[0].get("system_fingerprint") if self.events else None


async def post(
    port: int,
    path: str,
    body: Any,
    *,
    headers: dict[str, str] | None = None,
    started: asyncio.Event | None = None,
) -> Answer:
    """POST JSON and read the answer to its end. started: set at the first event with text."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Connection": "close"}
    head |= {"Content-Length": str(len(data)), **(headers or {})}
    return await exchange(port, "POST", path, head, data, started)


async def get(port: int, path: str) -> Answer:
    head = {"Host": f"127.0.0.1:{port}", "Connection": "close"}
    return await exchange(port, "GET", path, head, b"", None)


async def exchange(
    port: int,
    method: str,
    path: str,
    head: dict[str, str],
    data: bytes,
    started: asyncio.Event | None,
) -> Answer:
    answer = Answer()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    except OSError as error:
        answer.error = f"no connection: {error}"
        return answer
    try:
        lines = "".join(f"{k}: {v}\r\n" for k, v in head.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
        await _read(reader, answer, started)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    finally:
        writer.close()
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer, started: asyncio.Event | None) -> None:
    answer.status = int((await reader.readuntil(b"\r\n")).split()[1])
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        name, _, value = line.decode().partition(":")
        answer.headers[name.strip().lower()] = value.strip()
    if answer.headers.get("transfer-encoding") != "chunked":
        length = int(answer.headers.get("content-length", "0"))
        answer.body = await reader.readexactly(length)
        answer.ended = True
        return
    stream = answer.headers.get("content-type", "").startswith("text/event-stream")
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        piece = (await reader.readexactly(size + 2))[:-2]
        if not stream:
            answer.body += piece
            continue
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            _event(line, answer, started)
    await reader.readexactly(2)
    answer.ended = True


def _event(line: bytes, answer: Answer, started: asyncio.Event | None) -> None:
    if not line.startswith(b"data: "):
        return
    if line == b"data: [DONE]":
        answer.done = True
        return
    event = json.loads(line[6:])
    answer.events.append(event)
    answer.times.append(time.monotonic())
    if started is not None and event.get("choices") and event["choices"][0].get("delta", {}).get("content"):
        started.set()
