"""Watching a download that somebody asked for: nothing that happens while a line is being sent is missed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.breakers import Breakers
from appliance.fetching import Fetching
from appliance.pulling import Pulls
from reconciler.digests import digest
from reconciler.loader import load_text
from tests.hub.hubserver import LARGE, Hub

pytestmark = pytest.mark.anyio

TEXT = b"version: 1\nactive: null\nmodels: {far: {source: lmx/far}}\n"
MODEL = load_text(TEXT, path=Path("lmx.yaml"), env={}).spec.models["far"]
FILES = {"config.json": b'{"model_type": "qwen3"}', "model.safetensors": bytes(2 * LARGE)}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_download_that_ends_while_its_watcher_is_busy_is_told_to_him(
    hub: Hub, environment: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("lmx/far", FILES)
    hub.gate = threading.Event()
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    changed = asyncio.Event()
    fetching = Fetching(changed.set, Breakers(lambda _: None), environment=environment())
    lines = Pulls(fetching, tmp_path).pull("far", MODEL)
    try:
        async with asyncio.timeout(60):
            assert (await anext(lines))["state"] == "downloading"
            # He writes that line to a slow client; meanwhile it ends, and nothing changes any more.
            hub.gate.set()
            while fetching.pulled(digest(MODEL)).state == "downloading":
                changed.clear()
                await changed.wait()
            assert [line["state"] async for line in lines] == ["done"]
    finally:
        hub.gate.set()
        await lines.aclose()  # type: ignore[attr-defined]
        await fetching.close()
