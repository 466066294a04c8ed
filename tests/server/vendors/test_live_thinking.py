"""A model that thinks, as both vendors' packages see it.

Its weights are random: what it thinks means nothing, but that it thinks is told, and for how long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anthropic.types import Message
from openai.types.responses import Response

from appliance import wire
from appliance.supervisor.order import Probe
from reconciler.observed import EngineState, Limits, Route, RoutingTable
from tests.engine import models
from tests.server.vendors.conftest import House
from tests.server.vendors.strict import strictly
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio
HELLO: Any = [{"role": "user", "content": "The quick brown fox"}]
BUDGET = 12
LONGEST = 40  # tokens of an answer
SAMPLED: Any = {"temperature": 0}


@pytest.fixture(scope="module")
async def thinker(house: House, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The house with one more model, `thinker`."""
    folder = models.write(tmp_path_factory.mktemp("thinker"), special=("<think>", "</think>"))
    limits = Limits(context=1024, concurrency=4)
    engine = house.engines.spawn("thinker", "digest", wire.Load("thinker", str(folder)), limits, Probe(), 60)

    def state() -> Any:
        return next(seen for seen in house.engines.observe() if seen.id == engine)

    await eventually(lambda: state().state in (EngineState.READY, EngineState.EXITED))
    assert state().state is EngineState.READY, state().failure
    route = Route("thinker", "ready", engine, 4)
    house.router.apply(RoutingTable("thinker", {"thinker": "thinker"}, {"thinker": route}, timeout=30))
    yield house
    house.router.apply(house.table)


async def test_a_message_with_thinking(thinker: House) -> None:
    client = thinker.anthropic
    thinking: Any = {"type": "enabled", "budget_tokens": BUDGET}
    body: Any = {"model": "thinker", "max_tokens": LONGEST, "messages": HELLO, "extra_body": SAMPLED}
    whole = await client.messages.create(**body, thinking=thinking)
    strictly(Message, whole.to_dict(mode="json"))
    thought = whole.content[0]
    assert thought.type == "thinking"
    assert thought.thinking
    assert thought.signature
    details = whole.usage.output_tokens_details
    assert details is not None
    assert 0 < details.thinking_tokens <= BUDGET + 2  # what ends it, too
    assert whole.usage.output_tokens == LONGEST
    async with client.messages.stream(**body, thinking=thinking) as stream:
        pieces = [event.thinking async for event in stream if event.type == "thinking"]
        final = await stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == thought.thinking
    assert [block.to_dict() for block in final.content] == [block.to_dict() for block in whole.content]
    told = final.usage.output_tokens_details
    assert told is not None
    assert told.thinking_tokens == details.thinking_tokens
    off = await client.messages.create(**body, thinking={"type": "disabled"})
    assert [block.type for block in off.content] == ["text"]
    again: Any = [*HELLO, whole.to_param(), {"role": "user", "content": "And?"}]
    await client.messages.create(**{**body, "messages": again}, thinking=thinking)


async def test_a_response_with_reasoning(thinker: House) -> None:
    client = thinker.openai
    body: Any = {"model": "thinker", "input": "The quick brown fox", "max_output_tokens": LONGEST}
    body |= {"temperature": 0, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]}
    whole = await client.responses.create(**body)
    strictly(Response, whole.to_dict(mode="json"))
    thought = whole.output[0]
    assert thought.type == "reasoning"
    assert thought.content
    assert thought.encrypted_content
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    async with client.responses.stream(**body) as stream:
        pieces = [event.delta async for event in stream if event.type == "response.reasoning_text.delta"]
    assert "".join(pieces) == thought.content[0].text
    items: Any = [
        {"role": "user", "content": "Hello"},
        thought.to_dict(),
        {"role": "user", "content": "And?"},
    ]
    await client.responses.create(**{**body, "input": items})
    off = await client.responses.create(**{**body, "reasoning": {"effort": "none"}})
    assert [item.type for item in off.output] == ["message"]
