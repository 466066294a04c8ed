"""The heartbeat: proof that the process is scheduled, and a counter that proves it computes.

The thread does nothing else, so a long load, compile or prefill cannot keep it silent; MLX lets go of
the interpreter while it computes. Whether the model makes progress is another question, and only the
progress counter answers it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from appliance.engine.link import Link
from appliance.wire import Beat, CacheUse, Stage

INTERVAL = 0.5  # seconds


class Gauge:
    """What the engine is doing now. Written by the decode thread, read by the beat thread.

    Plain attributes: each is written whole under the interpreter lock, and a beat may be half a step old.
    """

    def __init__(self) -> None:
        self.stage: Stage = "start"
        self.progress = 0
        self.rows = 0
        self.waiting = 0
        self.unread: Callable[[], int] = int  # requests that the decode thread has not seen yet
        self.reserved = 0  # bytes
        self.cache: Callable[[], CacheUse] = CacheUse  # the prompt cache's figures, safe from any thread
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.tool_failures = 0  # calls that did not parse
        self._since = time.monotonic()
        self._busy: tuple[float, float | None] = (0.0, None)  # seconds until then; at work since

    def work(self) -> None:
        """The decode thread begins to compute."""
        self._busy = (self._busy[0], time.monotonic())

    def rest(self) -> bool:
        """It waits for others, or for work; whether it computed until now."""
        done, since = self._busy
        self._busy = (done if since is None else done + time.monotonic() - since, None)
        return since is not None

    def enter(self, stage: Stage) -> None:
        if stage != self.stage:
            self.stage = stage
            self._since = time.monotonic()

    def advance(self) -> None:
        """One more prefill chunk, decode step or piece of weights is done."""
        self.progress += 1
        self._since = time.monotonic()

    def beat(self) -> Beat:
        active, cache, peak = memory()
        done, since = self._busy
        return Beat(
            stage=self.stage,
            stage_s=time.monotonic() - self._since,
            progress=self.progress,
            rows=self.rows,
            waiting=self.waiting + self.unread(),
            busy_s=done if since is None else done + time.monotonic() - since,
            reserved_bytes=self.reserved,
            active_bytes=active,
            cache_bytes=cache,
            peak_bytes=peak,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            cache=self.cache(),
            tool_failures=self.tool_failures,
        )


def memory() -> tuple[int, int, int]:
    """MLX's own figures in bytes: active, cached, peak. Zeros until MLX has been imported."""
    mx: Any = sys.modules.get("mlx.core")
    if mx is None or not hasattr(mx, "get_peak_memory"):  # absent, or half way through its import
        return 0, 0, 0
    active = mx.get_active_memory()
    return active, mx.get_cache_memory(), max(active, mx.get_peak_memory())


def start(link: Link, gauge: Gauge) -> None:
    """Beat for as long as the process lives."""

    def run() -> None:
        while True:
            link.send(gauge.beat())
            time.sleep(INTERVAL)

    threading.Thread(target=run, name="beat", daemon=True).start()
