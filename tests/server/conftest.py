"""A real server on a real loopback port, in the test's own event loop."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
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


class Complaints(logging.Handler):
    """What Sanic logs as wrong. Nothing that a client does may lead to that."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@pytest.fixture
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    names = ("asyncio", "sanic.root", "sanic.error", "sanic.server")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture
async def site(complaints: Complaints) -> AsyncIterator[Site]:
    desk = Desk()
    board = Board(desk)
    app = build(board)
    listeners: Listeners = app.ctx.listeners
    port = await listeners.open("127.0.0.1", 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=False) as http:
        yield Site(desk, board, listeners, port, http)
    if listeners.observed():
        await listeners.close_all(grace=2)
    assert complaints.said == []
