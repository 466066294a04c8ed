"""Questions to encoders: the same queue, leases and ends as chats have, with real engines."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor.deadlines import Deadlines
from appliance.supervisor.order import Probe
from reconciler.observed import EngineState, Limits, Route, RoutingTable
from tests.engine.encoders import folders
from tests.supervisor.conftest import prompt, until

Make = Callable[..., Any]
TEXT = wire.Embed(0, [folders.TEXTS[0]])
LONG = wire.Embed(0, ["word " * 250] * 12)  # more than one slice


def encoder(w: Any, model: str, folder: Path, role: Any, concurrency: int = 8, **limits: Any) -> str:
    load = wire.Load(model, str(folder), role=role)
    found: str = w.engines.spawn(
        model, "digest", load, Limits(**{"context": 512, "concurrency": concurrency, **limits}), Probe(), 60.0
    )
    return found


async def embedding(w: Any, folder: Path, concurrency: int = 8, **limits: Any) -> str:
    """One ready engine that takes the traffic, under the name `embed`."""
    engine = encoder(w, "embed", folder, "embedding", concurrency, **limits)
    await w.reach(engine)
    w.route(Route("embed", "ready", engine, concurrency, role="embedding"), active=None)
    return engine


async def refused(asking: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await asking
    return raised.value


async def test_vectors_and_scores_come_back_and_are_counted(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        vectors = encoder(w, "embed", folders.bert_embedding(tmp_path / "e", "mean_tokens"), "embedding")
        scores = encoder(w, "rank", folders.xlm_ranker(tmp_path / "r"), "rerank")
        info = (await w.reach(vectors)).info
        assert (info.role, info.dimensions) == ("embedding", 32)
        assert (await w.reach(scores)).info.role == "rerank"
        w.route(
            Route("embed", "ready", vectors, 8, role="embedding"),
            Route("rank", "ready", scores, 8, role="rerank"),
            active=None,
        )
        model, found = await w.router.ask("embed", TEXT)
        assert (model, found.dimensions, len(found.vectors)) == ("embed", 32, 32 * 4)
        model, ranked = await w.router.ask("rank", wire.Rank(0, folders.QUERY, list(folders.TEXTS)))
        assert (model, len(ranked.scores)) == ("rank", len(folders.TEXTS))
        assert all(0 <= score <= 1 for score in ranked.scores)
        counters = w.router.books.counters
        assert counters.prompt_tokens == found.tokens + ranked.tokens
        assert list(counters.ttft_ms) == []  # no first token: nothing for a service level to judge
        assert set(counters.last_used) == {vectors, scores}
        assert w.outcomes == {("embed", "ok"): 1, ("rank", "ok"): 1}
        assert (w.see(vectors).leases, w.router.in_flight) == (0, 0)


async def test_a_model_is_asked_for_what_it_is_for(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        engine = await embedding(w, folders.bert_embedding(tmp_path, "mean_tokens"))
        route = w.router.table.routes["embed"]
        chat = Route("demo", "refuse")
        routes = {"demo": chat, "embed": route}
        w.router.apply(RoutingTable("demo", {name: name for name in routes}, routes))
        error = await refused(w.router.open("embed", prompt()))
        assert (error.status, error.code, error.param) == (400, "invalid_request", "model")
        assert (
            "embed is an embedding model: ask it at /v1/embeddings; chat models here: demo" in error.message
        )
        error = await refused(w.router.ask("demo", TEXT))
        assert "demo is a chat model" in error.message
        assert "embedding models here: embed" in error.message
        error = await refused(w.router.ask("embed", wire.Rank(0, "a", ["b"])))
        assert "rerank models here: none" in error.message
        for name in (None, "", "default"):
            error = await refused(w.router.ask(name, TEXT))
            assert "name the model" in error.message
            assert "embedding models here: embed" in error.message
        assert (await refused(w.router.ask("nobody", TEXT))).code == "model_not_found"
        assert w.see(engine).state is EngineState.READY


async def test_a_refusal_of_the_engine_reaches_the_client_whole(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        engine = await embedding(w, folders.bert_embedding(tmp_path, "mean_tokens"), context=8)
        error = await refused(w.router.ask("embed", wire.Embed(0, ["a", "the cat " * 9])))
        assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "input[1]")
        assert error.details == {"index": 1, "tokens": 20, "limit": 8}
        assert error.recorded
        assert w.outcomes == {("embed", "context_length_exceeded"): 1}
        assert w.see(engine).leases == 0


async def test_what_cannot_be_sent_leaves_nothing_behind(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        engine = await embedding(w, folders.bert_embedding(tmp_path, "mean_tokens"))
        huge = wire.Embed(0, ["x" * (wire.MAX_FRAME + 1)])
        assert (await refused(w.router.ask("embed", huge))).code == "request_too_large"
        odd = wire.Embed(0, ["\ud800"])
        assert (await refused(w.router.ask("embed", odd))).code == "invalid_request"
        assert (w.see(engine).leases, w.router.in_flight) == (0, 0)
        await w.router.ask("embed", TEXT)


async def test_a_sleeping_model_is_woken_and_the_question_waits(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        wake = Route("embed", "wake", role="embedding", code="model_swapping")
        w.route(wake, active=None)
        asked = asyncio.create_task(w.router.ask("embed", TEXT))
        await until(lambda: "embed" in w.router.wanted)
        engine = encoder(w, "embed", folders.bert_embedding(tmp_path, "mean_tokens"), "embedding")
        await w.reach(engine)
        assert not asked.done()
        w.route(Route("embed", "ready", engine, 8, role="embedding"), active=None)
        assert (await asked)[1].dimensions == 32
        assert not w.router.wanted


async def test_rows_are_kept_to_and_who_waits_too_long_hears_so(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        engine = await embedding(w, folders.minilm(), concurrency=1)
        route = Route("embed", "ready", engine, 1, role="embedding")
        w.route(route, active=None, timeout=0.05)
        first = asyncio.create_task(w.router.ask("embed", LONG))
        await until(lambda: w.see(engine).leases == 1)
        error = await refused(w.router.ask("embed", TEXT))
        assert (error.code, error.status) == ("overloaded", 503)
        assert error.retry_after is not None
        assert (await first)[1].tokens > 1000  # its own time had been up too, had it not begun


async def test_a_draining_engine_answers_what_it_has_in_hand(world: Make) -> None:
    async with world() as w:
        engine = await embedding(w, folders.minilm())
        asked = asyncio.create_task(w.router.ask("embed", LONG))
        await until(lambda: w.see(engine).leases == 1)
        w.engines.drain(engine)
        later = await queued(w)
        assert w.see(engine).state is EngineState.DRAINING
        assert (await asked)[1].dimensions == 384
        assert w.see(engine).leases == 0
        later.cancel()


async def queued(w: Any) -> asyncio.Task[Any]:
    """A newcomer, who waits for another engine."""
    task = asyncio.create_task(w.router.ask("embed", TEXT))
    await until(lambda: w.router.queued == 1)
    return task


async def test_who_leaves_frees_the_row_and_stops_the_work(world: Make) -> None:
    async with world() as w:
        engine = await embedding(w, folders.minilm(), concurrency=1)
        endless = wire.Embed(0, ["word " * 250] * 1000)  # longer than any test waits
        asked = asyncio.create_task(w.router.ask("embed", endless))
        await until(lambda: w.see(engine).leases == 1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert w.see(engine).leases == 0
        await asyncio.wait_for(w.router.ask("embed", TEXT), 30)
        assert w.outcomes == {("embed", "cancelled"): 1, ("embed", "ok"): 1}


async def test_an_engine_that_dies_takes_only_its_own_questions(world: Make, tmp_path: Path) -> None:
    async with world() as w:
        dying = await embedding(w, folders.minilm())
        other = encoder(w, "rank", folders.xlm_ranker(tmp_path), "rerank")
        await w.reach(other)
        asked = asyncio.create_task(w.router.ask("embed", LONG))
        await until(lambda: w.see(dying).leases == 1)
        os.kill(w.see(dying).pid, signal.SIGKILL)
        error = await refused(asked)
        assert (error.code, error.status) == ("engine_failed", 503)
        assert error.retry_after is not None
        await w.reach(dying, EngineState.EXITED)
        assert w.see(other).state is EngineState.READY


async def test_a_hung_encoder_is_found(world: Make) -> None:
    async with world(deadlines=Deadlines(silence=2.0, silence_start=6.0, look=0.1)) as w:
        engine = await embedding(w, folders.minilm())
        asked = asyncio.create_task(w.router.ask("embed", LONG))
        await until(lambda: w.see(engine).leases == 1)
        os.kill(w.see(engine).pid, signal.SIGSTOP)
        assert (await refused(asked)).code == "engine_failed"
        failure = (await w.reach(engine, EngineState.EXITED)).failure
        assert failure.reason == "hang"


async def test_a_model_that_fails_its_probe_takes_no_traffic(world: Make, tmp_path: Path) -> None:
    """The token that the probe's text becomes has no numbers."""
    folder = folders.bert_embedding(tmp_path, "mean_tokens")
    weights = load_file(folder / "model.safetensors")
    unknown = folders.SPECIAL.index("<unk>")
    weights["embeddings.word_embeddings.weight"][unknown] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    async with world() as w:
        engine = encoder(w, "embed", folder, "embedding")
        failure = (await w.reach(engine, EngineState.EXITED)).failure
        assert failure.reason == "probe_failed"
        assert "NaN" in failure.message
