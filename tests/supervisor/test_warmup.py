"""What a model reads before it takes traffic, and what happens when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from appliance import wire
from appliance.supervisor.order import Template
from reconciler.observed import EngineState, Limits, Route
from tests.supervisor.conftest import standin, until

Make = Callable[..., Any]
S = EngineState
RULES = " ".join(f"Rule {number}: be kind to number {number}." for number in range(60))
LIMITS = Limits(context=4096, concurrency=4, cache_memory_bytes=64 * 2**20)


def chat(text: str) -> wire.Submit:
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": text}]
    return wire.Submit(0, messages=messages, sampling=wire.Sampling(max_tokens=1, temperature=0.0))


def template(name: str = "agent", text: str = "hello") -> Template:
    return Template(name, chat(text))


async def test_a_templates_prompt_is_cached_before_the_first_request_comes(world: Make) -> None:
    async with world() as w:
        engine = w.spawn(limits=LIMITS, warmup=(template(),))
        seen = await w.reach(engine)
        assert (seen.warmup.done, seen.warmup.running, seen.warmup.failed) == (1, None, ())
        assert w.changes == [S.STARTING, S.LOADING, S.PROBING, S.READY]
        w.route(Route("demo", "ready", engine, 4))
        async with await w.router.open(None, chat("something else")) as generation:
            await generation.collect()
        assert generation.cached_tokens > 300
        assert generation.cached_from == "memory"


async def test_one_that_fails_is_told_and_the_others_are_read_all_the_same(world: Make) -> None:
    async with world() as w:
        bad = Template("gone", problem="warmup_templates no longer has it")
        engine = w.spawn(limits=LIMITS, warmup=(bad, template("long", RULES * 20), template("agent")))
        seen = await w.reach(engine)
        assert seen.warmup.done == 3
        (first, why), (second, refused) = seen.warmup.failed
        assert (first, why, second) == ("gone", "warmup_templates no longer has it", "long")
        assert "ceiling" in refused
        assert seen.failure is None
        w.route(Route("demo", "ready", engine, 4))
        async with await w.router.open(None, chat("something else")) as generation:
            await generation.collect()
        assert generation.cached_tokens > 300


async def test_no_answer_within_load_timeout_leaves_the_rest_out(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        engine = w.spawn(warmup=(template("one"), template("two")), load_timeout=4.0)
        await until(lambda: w.see(engine).warmup.running == "one")
        assert w.see(engine).state is S.PROBING
        assert w.see(engine).leases == 0
        seen = await w.reach(engine)
        assert [name for name, _ in seen.warmup.failed] == ["one", "two"]
        assert "may take 4 s" in seen.warmup.failed[0][1]


async def test_an_engine_that_dies_of_it_has_died(world: Make) -> None:
    async with world(command=standin("dies-asked")) as w:
        engine = w.spawn(warmup=(template(),))
        seen = await w.reach(engine, S.EXITED)
        assert seen.failure.reason == "exit"
        assert S.READY not in w.changes


async def test_a_newer_edit_ends_it_in_the_middle(world: Make) -> None:
    async with world(command=standin("deaf")) as w:
        engine = w.spawn(warmup=(template(),))
        await until(lambda: w.see(engine).warmup.running == "agent")
        w.engines.stop(engine, "superseded", grace=0.2)
        seen = await w.reach(engine, S.EXITED)
        assert (seen.stop_reason, seen.failure, seen.warmup.failed) == ("superseded", None, ())
        assert S.READY not in w.changes
