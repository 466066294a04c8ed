"""What a reader of one answer may rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from appliance import wire
from appliance.errors import ApiError
from appliance.supervisor import generation
from tests.supervisor.conftest import prompt, standin, until

Make = Callable[..., Any]


async def test_the_pieces_make_up_the_whole_answer(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        ask = wire.Submit(
            0,
            messages=[{"role": "user", "content": "What is LMX?"}],
            sampling=wire.Sampling(max_tokens=100, temperature=0.0),
        )
        whole = await (await w.router.open(None, ask)).collect()
        stream = await w.router.open(None, ask)
        deltas = [delta async for delta in stream]
        assert "".join(delta.text for delta in deltas) == whole.text
        assert whole.text
        assert whole.finish == "stop"
        assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert (deltas[-1].finish, deltas[-1].tokens) == ("stop", whole.tokens)
        tokens = [delta.tokens for delta in deltas]
        assert tokens == sorted(tokens)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_what_a_slow_reader_left_comes_in_one_piece(shared: Make) -> None:
    async with shared() as w:
        await w.serving()
        stream = await w.router.open(None, prompt(300))
        await until(lambda: stream.ended)
        deltas = [delta async for delta in stream]
        assert len(deltas) == 1
        assert (deltas[0].tokens, deltas[0].finish) == (300, "length")


async def test_a_reader_that_is_too_slow_is_cut_off_and_blocks_nobody(
    shared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "UNREAD", 2000)
    async with shared() as w:
        engine = await w.serving()
        slow = await w.router.open(None, prompt(3500))
        patient = await w.router.open(None, prompt(300), bounded=False)
        brisk = await w.router.open(None, prompt(300))
        assert [delta async for delta in brisk][-1].tokens == 300
        await until(lambda: slow.ended)
        await until(lambda: patient.ended)
        assert w.see(engine).leases == 0
        with pytest.raises(ApiError, match="client reads too slowly") as raised:
            await anext(slow)
        assert raised.value.code == "overloaded"
        assert (await patient.collect()).tokens == 300
        assert w.outcomes["demo", "overloaded"] == 1


async def test_log_probabilities_that_nobody_reads_count_too(
    shared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 tokens are some 1,000 characters; with what is told of each it is twenty times as much."""
    monkeypatch.setattr(generation, "UNREAD", 5000)
    async with shared() as w:
        await w.serving()
        plain = await w.router.open(None, prompt(300))
        told = await w.router.open(None, msgspec.structs.replace(prompt(300), logprobs=10))
        await until(lambda: plain.ended and told.ended)
        assert [delta async for delta in plain][-1].tokens == 300
        with pytest.raises(ApiError, match="client reads too slowly"):
            await anext(told)


async def test_many_unread_pieces_do_not_pile_up(shared: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "PIECES", 10)
    async with shared() as w:
        await w.serving()
        stream = await w.router.open(None, prompt(500))
        await until(lambda: stream.ended)
        assert len(stream._pieces) <= 11
        whole = await stream.collect()
        assert whole.tokens == 500
        assert whole.text == (await (await w.router.open(None, prompt(500))).collect()).text


async def test_collecting_is_one_wake_up(shared: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared() as w:
        await w.serving()
        stream = await w.router.open(None, prompt(200))
        wakes: list[int] = []
        wake = generation.Generation._wake

        def counted(self: generation.Generation) -> None:
            wakes.append(self.tokens)
            wake(self)

        monkeypatch.setattr(generation.Generation, "_wake", counted)
        assert (await stream.collect()).tokens == 200
        assert wakes == [200]


@pytest.mark.parametrize(
    ("code", "heard", "retry"),
    [
        ("", "engine_failed", 1.0),
        ("unsupported_grammar",) * 2 + (None,),
        ("nonsense", "internal_error", None),
    ],
)
async def test_a_request_that_cannot_go_on_says_whose_doing_that_is(
    world: Make, code: str, heard: str, retry: float | None
) -> None:
    """Clients come again by themselves after a 503: where the request is at fault that would not help."""
    async with world(command=standin("fails")) as w:
        await w.serving()
        ask = wire.Submit(0, messages=[{"role": "user", "content": code}])
        with pytest.raises(ApiError, match="no more") as raised:
            await (await w.router.open(None, ask)).collect()
        assert (raised.value.code, raised.value.retry_after) == (heard, retry)
        assert w.outcomes["demo", heard] == 1


async def test_text_that_came_before_a_crash_is_delivered_before_the_error(world: Make) -> None:
    async with world() as w:
        engine = await w.serving()
        stream = await w.router.open(None, prompt(4000))
        await until(lambda: stream.tokens > 20)
        w.engines.get(engine).kill()
        await until(lambda: stream.ended)
        assert (await anext(stream)).tokens > 20
        for _ in range(2):
            with pytest.raises(ApiError, match="ended before the answer was complete"):
                await anext(stream)
