"""One request and what came of it, measured at the client."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

PATH = "/v1/chat/completions"
ANSWER_WITHIN_S = 600.0  # between two pieces of an answer; a queue may come before the first


class NotAnswered(Exception):
    """A request of the bench was refused or its answer broke off; the message is for a person."""


@dataclass(frozen=True)
class Timed:
    """One streamed answer. first_s, last_s: seconds from the request to the first text and to the end.

    prompt, cached, written: tokens by the answer's usage. text: what was said, thoughts left out.
    """

    first_s: float
    last_s: float
    prompt: int
    cached: int
    written: int
    text: str


@asynccontextmanager
async def client(url: str, headers: Mapping[str, str], streams: int) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps `streams` connections, so that opening one is not part of what is measured after the first."""
    import httpx

    async with httpx.AsyncClient(
        base_url=url,
        headers=dict(headers),
        timeout=httpx.Timeout(30.0, read=ANSWER_WITHIN_S, pool=None),
        limits=httpx.Limits(max_connections=streams, max_keepalive_connections=streams),
        trust_env=False,  # a proxy of this shell has nothing to do with an appliance on this network
    ) as http:
        yield http


async def whole(http: httpx.AsyncClient, body: Mapping[str, Any]) -> dict[str, Any]:
    """The message of an answer that is not streamed. Raises NotAnswered."""
    with _reached():
        response = await http.post(PATH, json=body)
    if response.status_code != 200:
        raise NotAnswered(_refusal(response.status_code, response.content))
    choice = response.json()["choices"][0]
    message: dict[str, Any] = choice["message"]
    return {**message, "finish_reason": choice["finish_reason"]}


async def timed(http: httpx.AsyncClient, body: Mapping[str, Any]) -> Timed:
    """Raises NotAnswered, also where the answer is not whole: the speed of half an answer is none."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    pieces: list[bytes] = []
    first = None
    start = time.perf_counter()
    with _reached():
        async with http.stream("POST", PATH, json=asked) as response:
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                # Parsed now only up to the first text: this process shares the machine with what it measures.
                if first is None and has_text(b"".join(pieces)):
                    first = time.perf_counter() - start
            last = time.perf_counter() - start
    everything = b"".join(pieces)
    if response.status_code != 200:
        raise NotAnswered(_refusal(response.status_code, everything))
    events = [json.loads(line[6:]) for line in everything.split(b"\n") if line.startswith(b"data: {")]
    broken = next((event["error"] for event in events if "error" in event), None)
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    if broken is not None or usage is None or b"data: [DONE]" not in everything:
        raise NotAnswered(f"an answer broke off: {(broken or {}).get('message') or 'the stream ended early'}")
    said = "".join(delta.get("content") or "" for event in events for delta in _deltas(event))
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Timed(
        last if first is None else first,  # an answer of no text at all: its end is what was waited for
        last,
        usage["prompt_tokens"],
        cached,
        usage["completion_tokens"],
        said,
    )


def has_text(data: bytes) -> bool:
    """Does any whole event so far carry text, a thought or a call? Only asked until the first one does."""
    for line in data.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                event = json.loads(line[6:])
            except ValueError:
                continue  # the end of the line has not come yet
            kinds = ("content", "reasoning_content", "tool_calls")
            if any(delta.get(kind) for delta in _deltas(event) for kind in kinds):
                return True
    return False


def _deltas(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [choice.get("delta") or {} for choice in event.get("choices") or ()]


def _refusal(status: int, body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return f"{error['message']} ({error['code']}, HTTP {status})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {body[:200].decode(errors='replace')}"


class _reached:
    """Errors of the connection, in the words of this module."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import httpx

        if isinstance(error, httpx.TransportError):
            raise NotAnswered(f"the connection broke: {str(error) or type(error).__name__}") from error
