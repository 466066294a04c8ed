"""Connections that do nothing, or nearly nothing, do not take the service from the others."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import Machine

USUAL = 1024  # the soft limit of open files on most systems
IDLE = 2000


@contextlib.contextmanager
def soft_limit(count: int) -> Iterator[None]:
    """What is started meanwhile gets this soft limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Up, with the usual limit of open files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * IDLE:
        pytest.skip(f"this system allows too few open files: {hard}")
    made = Machine(tmp_path)
    with soft_limit(USUAL):
        made.up()
    with soft_limit(2 * IDLE):  # for our own ends of the connections
        yield made
    made.close()


def test_two_thousand_idle_connections(machine: Machine) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(IDLE):
            held.enter_context(socket.create_connection(("127.0.0.1", machine.port), timeout=30))
        assert machine.call("GET", "/healthz")[0] == 200
        before = machine.answer("Who are you?")
        (engine,) = machine.engines()
        engine.kill()  # and an engine can be started
        machine.until(lambda s: s["summary"] == "Ready" and s["models"]["demo"]["pid"] != engine.pid)
        assert machine.answer("Who are you?") == before


def test_slow_heads_and_floods_of_headers(machine: Machine) -> None:
    with contextlib.ExitStack() as held:
        slow = [
            held.enter_context(socket.create_connection(("127.0.0.1", machine.port), timeout=30))
            for _ in range(300)
        ]
        for text in (
            b"POST /v1/chat/completions HTTP/1.1\r\n",
            b"Host: localhost\r\n",
            b"X-A: 1",
            b"\r",
            b"\n",
        ):
            for sock in slow:
                sock.sendall(text)
            assert machine.call("GET", "/healthz")[0] == 200
        for _ in range(50):
            flood = held.enter_context(socket.create_connection(("127.0.0.1", machine.port), timeout=30))
            with contextlib.suppress(ConnectionError):  # it may hang up before all has come
                flood.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Flood: 1\r\n" * 100_000)
            with contextlib.suppress(ConnectionError):
                assert flood.recv(100).split(b" ", 2)[1:2] in ([b"413"], [b"431"], [b"400"], [])
        assert machine.answer("Who are you?")
