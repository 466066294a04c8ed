"""Every machine's /status, side by side.

So many requests run at once; each has its time, from the first packet to the last byte, and a machine that
does not answer within it is told as that. A document is read up to MOST bytes: a machine may be anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from appliance.fleet.inventory import Machine

AT_ONCE = 32
WITHIN_S = 5.0
MOST = 4 * 2**20  # bytes


@dataclass(frozen=True)
class Answer:
    """status: the document; None where there is none, and why in words. took: seconds."""

    machine: Machine
    status: dict[str, Any] | None
    why: str
    took: float


async def poll(
    machines: Sequence[Machine], *, at_once: int = AT_ONCE, within: float = WITHIN_S
) -> list[Answer]:
    """One answer for each, in their order. Never raises for what a machine does."""
    gate = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=within, follow_redirects=False) as client:

        async def ask(machine: Machine) -> Answer:
            async with gate:
                began = time.monotonic()
                status, why = await _ask(client, machine, within)
                return Answer(machine, status, why, time.monotonic() - began)

        return list(await asyncio.gather(*(ask(machine) for machine in machines)))


async def _ask(
    client: httpx.AsyncClient, machine: Machine, within: float
) -> tuple[dict[str, Any] | None, str]:
    headers = {} if machine.key is None else {"authorization": f"Bearer {machine.key}"}
    try:
        async with (
            asyncio.timeout(within),
            client.stream("GET", f"{machine.url}/status", headers=headers) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MOST:
                    return None, f"its answer is over {MOST} bytes"
    except TimeoutError:
        return None, f"no answer within {within:g} s"
    except httpx.TimeoutException:
        return None, f"no answer within {within:g} s"
    except httpx.HTTPError as error:
        return None, str(error) or type(error).__name__
    if answer.status_code == 401:
        return None, "it wants a key: name one under `key` in the inventory"
    if answer.status_code != 200:
        return None, f"HTTP {answer.status_code}"
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None, "what answers there is no LMX: not JSON"
    if not isinstance(status, dict) or not isinstance(status.get("summary"), str):
        return None, "what answers there is no LMX: no summary"
    return status, ""
