"""One engine process of all-MiniLM-L6-v2 for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wire
from tests.engine.client import Engine
from tests.engine.encoders import folders


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        running.load(folders.minilm(), role="embedding")
        running.send(wire.Configure(context=512))
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        folder = folders.xlm_ranker(tmp_path_factory.mktemp("model"))
        running.load(Path(folder), role="rerank")
        yield running
    finally:
        running.close()
