"""Engines and tiny models for the tests of the engine process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import wire
from tests.engine import models
from tests.engine.client import Engine


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    return models.write(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Starts engines; all are gone after the test."""
    engines: list[Engine] = []

    def new() -> Engine:
        engines.append(Engine(tmp_path / f"engine-{len(engines)}.log"))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One loaded engine for a whole test file, with a ceiling of 512 tokens."""
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        running.load(folder)
        running.send(wire.Configure(context=512, concurrency=16))
        yield running
    finally:
        running.close()
