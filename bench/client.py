"""A light closed-loop client: one process, raw sockets, no JSON parsing once the first text has come.

It shares two cores with what it measures, so it must cost little and the same on both sides.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

from bench.workload import Load, Request


@dataclass
class Result:
    """seconds: from the first request to the last byte. ttft: seconds to first text, one per request."""

    seconds: float = 0.0
    tokens: int = 0
    ttft: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


async def run(port: int, model: str, load: Load, round_: int) -> Result:
    """Raises RuntimeError where an answer is not whole: a speed of wrong answers is none."""
    result = Result()
    start = time.perf_counter()
    await asyncio.gather(
        *(_client(port, model, load.of(client, round_), result) for client in range(load.streams))
    )
    result.seconds = time.perf_counter() - start
    return result


async def _client(port: int, model: str, requests: list[Request], result: Result) -> None:
    for request in requests:
        await _one(port, model, request, result)


async def _one(port: int, model: str, request: Request, result: Result) -> None:
    first, counted = await ask(port, model, request.text, request.tokens)
    if counted != request.tokens:
        raise RuntimeError(f"asked for {request.tokens} tokens, got {counted}")
    result.ttft.append(first)
    result.tokens += counted


async def ask(port: int, model: str, text: str, tokens: int) -> tuple[float, int]:
    """(seconds to the first text, completion tokens) of one streamed answer."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(head.encode() + body)
    seen, first, tail = b"", None, b""
    while data := await reader.read(65536):
        if first is None:
            seen += data
            if has_text(seen):
                first = time.perf_counter() - start
        tail = (tail + data)[-4096:]
    writer.close()
    if first is None or b"data: [DONE]" not in tail:
        raise RuntimeError(f"an answer was not whole: {(seen or tail)[-400:]!r}")
    return first, _usage(tail)


def has_text(data: bytes) -> bool:
    """Does any whole event so far carry text? Only called until the first one does."""
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                event = json.loads(line[6:])
            except ValueError:
                continue  # the end of the line has not come yet
            if any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())):
                return True
    return False


def _usage(tail: bytes) -> int:
    for line in reversed(tail.split(b"\n")):
        if line.startswith(b"data: {") and b'"usage"' in line:
            usage = json.loads(line[6:]).get("usage")
            if usage:
                return int(usage["completion_tokens"])
    raise RuntimeError(f"no usage in {tail[-400:]!r}")


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
