"""A real server on a real loopback port, in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest

from appliance.server.app import Listeners, build
from tests.server.stand import Board, Desk

# For tests of connections: both event loops that the server may run in.
BOTH_LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)


@pytest.fixture(scope="package")
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Site:
    """A server that runs, and what stands behind it."""

    desk: Desk
    board: Board
    listeners: Listeners
    port: int
    http: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    desk = Desk()
    board = Board(desk)
    app = build(board)
    listeners: Listeners = app.ctx.listeners
    port = await listeners.open("127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, verify=False) as http:
        yield Site(desk, board, listeners, port, http)
    await listeners.close_all(grace=2)
