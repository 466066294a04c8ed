"""Questions to an engine about its sessions, and whose prompts are found for whom."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from appliance.supervisor.record import Caller
from reconciler.observed import EngineState
from tests.supervisor.conftest import standin, until
from tests.supervisor.test_warmup import LIMITS, chat

Make = Callable[..., Any]


async def ask(w: Any, text: str, **caller: Any) -> int:
    """How many tokens of the prompt were found."""
    async with await w.router.open(None, chat(text), caller=Caller(**caller)) as generation:
        await generation.collect()
        found: int = generation.cached_tokens
        return found


async def test_a_named_conversation_is_listed_and_forgotten(world: Make) -> None:
    async with world() as w:
        engine = w.engines.get(await w.serving(4, limits=LIMITS))
        await ask(w, "hello", conversation="talk", scope="ab12")
        await ask(w, "hello")
        (session,) = (await engine.asking.sessions()).sessions
        assert (session.name, session.scope) == ("talk", "ab12")
        assert session.tokens > 300
        assert [one.name for one in (await engine.asking.drop("another")).sessions] == []
        assert [one.name for one in (await engine.asking.drop("talk")).sessions] == ["talk"]
        assert (await engine.asking.sessions()).sessions == []


async def test_what_one_key_has_cached_is_found_for_no_other(world: Make) -> None:
    async with world() as w:
        await w.serving(4, limits=LIMITS)
        assert await ask(w, "hello", scope="ab12") == 0
        assert await ask(w, "hello", scope="ab12") > 300
        assert await ask(w, "hello", scope="cd34") == 0
        assert await ask(w, "hello") == 0
        assert await ask(w, "hello") > 300


async def test_who_asks_an_engine_that_dies_hears_so_at_once(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        name = await w.ready()
        asked = w.engines.get(name).asking.sessions()
        os.kill(w.see(name).pid, signal.SIGKILL)
        with pytest.raises(asyncio.CancelledError):
            await asked
        await w.reach(name, EngineState.EXITED)
        assert not w.engines.loaded


async def test_what_the_cache_gave_is_counted_in_the_parent(world: Make) -> None:
    async with world() as w:
        engine = await w.serving(4, limits=LIMITS)
        await ask(w, "hello")
        await ask(w, "hello")
        await until(lambda: w.see(engine).cache.memory_hits == 1)
        seen = w.see(engine).cache
        assert seen.misses >= 1
        assert seen.tokens > 300
        assert 0 < seen.memory_bytes < w.see(engine).memory_bytes
        w.engines.stop(engine, "test")
        gone = await w.reach(engine, EngineState.EXITED)
        assert (gone.cache.memory_bytes, gone.cache.tokens) == (0, seen.tokens)
