"""Answers that are watched while they come: when each piece of text was there."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

from bench import wire
from bench.client import has_text

DEADLINE_S = 300.0  # for anything that is waited for


class Stream:
    """One streamed greedy answer; `times` grow while it runs. Seconds of `time.perf_counter`.

    Used as a context: leaving it closes the connection, which cancels the answer.
    """

    def __init__(self, port: int, model: str, text: str, tokens: int) -> None:
        self.port = port
        self.times: list[float] = []
        self.began = 0.0
        self._body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
        }
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Stream:
        self.began = time.perf_counter()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        reader, writer = await wire.begin(self.port, "/v1/chat/completions", self._body)
        try:
            rest = b""
            while data := await reader.read(65536):
                now = time.perf_counter()
                *lines, rest = (rest + data).split(b"\n")
                self.times += [now for line in lines if has_text(line)]
                self._came.set()
        finally:
            writer.close()

    async def pieces(self, count: int) -> None:
        """Wait until so many have come. Raises RuntimeError where the answer ends before, or none comes."""
        assert self._task is not None
        end = time.perf_counter() + DEADLINE_S
        while len(self.times) < count:
            self._came.clear()
            if self._task.done() and len(self.times) < count:
                raise RuntimeError(f"an answer ended after {len(self.times)} pieces of text, not {count}")
            if time.perf_counter() > end:
                raise RuntimeError(f"no more than {len(self.times)} pieces of text in {DEADLINE_S:.0f} s")
            came = asyncio.create_task(self._came.wait())
            await asyncio.wait({came, self._task}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            came.cancel()

    @property
    def first_s(self) -> float:
        """Seconds from the request to the first text."""
        return self.times[0] - self.began

    def pauses(self, start: float, end: float) -> list[tuple[float, float]]:
        """(when, seconds) of each wait for text that reaches into this time."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return [(a, b - a) for a, b in pairs if b > start and a < end]

    def rate(self, start: float, end: float) -> float:
        """Pieces of text a second."""
        return sum(start <= at < end for at in self.times) / (end - start)
