"""One sample a second: throughput and memory, for `/status` and whoever watches the events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from appliance.control import ApplianceControl
from appliance.feed import Feed

EVERY_S = 1.0


async def sample(control: ApplianceControl, feed: Feed, each_second: Callable[[], None]) -> None:
    """Runs until cancelled. each_second: called too, watched or not."""
    before, at = control.router.tokens_out, time.monotonic()
    while True:
        await asyncio.sleep(EVERY_S)
        tokens, now = control.router.tokens_out, time.monotonic()
        control.tokens_per_s = (tokens - before) / (now - at)
        before, at = tokens, now
        control.dashboard.sampled(vars(control.traffic()), control.memory())
        each_second()
        if feed.watched:
            feed.publish(_item(control))


def _item(control: ApplianceControl) -> dict[str, Any]:
    return {
        "type": "telemetry",
        "at": time.time(),
        "message": "",
        "data": {"traffic": vars(control.traffic()), "memory": control.memory()},
    }
