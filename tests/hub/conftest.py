"""A hub of our own, and an environment in which only it exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hub.hubserver import Hub

HUB_SETTINGS = ("HF_", "HUGGING", "XDG_CACHE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def hub() -> Iterator[Hub]:
    running = Hub.start()
    yield running
    running.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub"


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """The whole environment of a downloading process; more variables by keyword."""

    def make(**more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(HUB_SETTINGS)}
        return {**clean, **hub.environment(tmp_path / "home"), **more}

    return make
