"""Any body is taken or refused with a reason; a stream tells all that any answer says."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent

from appliance import wire
from appliance.errors import ApiError
from appliance.server import generate
from appliance.server.messages import answer as message_answer
from appliance.server.messages import request as message_request
from appliance.server.messages import schema as message_schema
from appliance.server.parse import parse
from appliance.server.parts import Parts
from appliance.server.responses import answer as response_answer
from appliance.server.responses import request as response_request
from appliance.server.responses import schema as response_schema
from appliance.supervisor.generation import Delta, merged
from tests.server.stand import Answer
from tests.server.test_any_json import values
from tests.server.vendors.strict import events, strictly
from tests.server.vendors.test_message_events import content, unsigned
from tests.server.vendors.test_response_events import bare, built

# --- any body -------------------------------------------------------------------------------------

WORDS = """
user assistant system developer text thinking redacted_thinking tool_use tool_result image input_text
output_text reasoning reasoning_text message function_call function_call_output refusal function custom
auto any tool none required c1 c2 weather enabled disabled
adaptive json_schema json_object allowed_tools ephemeral
"""
words = st.sampled_from([*WORDS.split(), ""])


def likely(kind: Any, depth: int = 3) -> st.SearchStrategy[Any]:
    """Dictionaries of the right names with likely words, and now and then nonsense."""
    if depth == 0:
        return words | values
    inner = st.deferred(lambda: likely(kind, depth - 1))
    value = words | st.integers(-1, 9) | st.booleans() | inner | st.lists(inner, max_size=3) | values
    return st.dictionaries(st.sampled_from(kind), value, max_size=5)


BLOCK = message_schema.Block.__struct_fields__ + ("role", "input_schema", "budget_tokens")
ITEM = tuple({*response_schema.Item.__struct_fields__, *response_schema.Part.__struct_fields__, "parameters"})


def bodies(kind: Any, pieces: tuple[str, ...], many: tuple[str, ...]) -> st.SearchStrategy[Any]:
    piece = likely(pieces)
    given_ = dict.fromkeys(kind.__struct_fields__, piece | words | values)
    given_ |= {name: st.lists(piece, max_size=4) for name in many}
    must = {name: given_.pop(name) for name in ("messages", "input") if name in given_}
    fixed = {"model": st.just("demo"), "max_tokens": st.just(9)} if "messages" in must else {}
    optional = {name: one for name, one in given_.items() if name not in fixed}
    return st.fixed_dictionaries({**must, **fixed}, optional=optional)


def taken(body: Any, kind: Any, read: Any) -> None:
    try:
        row = read(parse(json.dumps(body).encode(), kind)).row
    except ApiError as refusal:
        error = refusal
    else:
        sendable(row)
        return
    assert 400 <= error.status < 500
    assert error.message
    msgspec.json.encode(error.body())


def sendable(row: wire.Submit) -> None:
    assert row.messages
    with contextlib.suppress(OverflowError, TypeError, ValueError):  # the router refuses these by name
        wire.encode(row)


@settings(max_examples=120, deadline=None)
@given(bodies(message_schema.MessageRequest, BLOCK, ("messages", "system", "tools")))
def test_any_message_body_is_taken_or_refused(body: Any) -> None:
    taken(body, message_schema.MessageRequest, message_request.read)


@settings(max_examples=120, deadline=None)
@given(bodies(response_schema.ResponseRequest, ITEM, ("input", "tools")))
def test_any_response_body_is_taken_or_refused(body: Any) -> None:
    taken(body, response_schema.ResponseRequest, response_request.read)


# --- any answer -----------------------------------------------------------------------------------

text = st.text(max_size=6) | st.sampled_from(["\u2028", "\x85", "\x00text\x00", '"}', "%d", "\n\ndata: "])


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """Deltas as engines may send them: each in the order reasoning, text, calls; calls are JSON objects."""
    found = []
    number = 0
    for i in range(draw(st.integers(0, 6))):
        calls: list[wire.CallPart] = []
        for _ in range(draw(st.integers(0, 2))):
            whole = json.dumps(draw(st.dictionaries(text, text | st.integers(), max_size=2)))
            cut = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=2)))
            pieces = [whole[a:b] for a, b in zip([0, *cut], [*cut, len(whole)], strict=True)]
            calls.append(wire.CallPart(number, f"call_{number}", f"f{number}", pieces[0]))
            calls += [wire.CallPart(number, None, None, piece) for piece in pieces[1:]]
            number += 1
        more = wire.More(reasoning=draw(text), calls=calls) if draw(st.booleans()) else None
        found.append(Delta(draw(text), i + 1, more=more))
    return [*found, Delta("", 99, draw(st.sampled_from(["stop", "length"])))]


def row_of(deltas: list[Delta]) -> generate.Answer:
    last = deltas[-1]
    mores = merged([delta.more for delta in deltas if delta.more is not None])
    calls: dict[int, generate.Call] = {}
    for part in mores.calls:
        before = calls.get(part.index)
        if before is None:
            calls[part.index] = generate.Call(part.id or "", part.name or "", part.arguments)
        else:
            calls[part.index] = generate.Call(before.id, before.name, before.arguments + part.arguments)
    return generate.Answer(
        finish=last.finish or "",
        stop=None,
        called=bool(calls),
        tokens=last.tokens,
        prompt_tokens=5,
        cached_tokens=2,
        text="".join(delta.text for delta in deltas),
        reasoning=mores.reasoning,
        calls=list(calls.values()),
    )


def stream(form: generate.Format, deltas: list[Delta]) -> bytes:
    row = row_of(deltas)
    pieces = [form.opening(1), *(form.delta(0, delta) for delta in deltas)]
    return b"".join([*pieces, form.closing(0, row), form.ending([row], 1)])


def joined(parts: list[dict[str, Any]], kind: str, member: str) -> str:
    return "".join(part[member] for part in parts if part["type"] == kind)


@settings(max_examples=80, deadline=None)
@given(answers())
def test_a_stream_of_a_message_is_the_whole_message(deltas: list[Delta]) -> None:
    row = row_of(deltas)
    found = []
    for name, data in events(stream(message_answer.Events(Answer(), "req", hidden=False), deltas)):
        assert name == data["type"]
        if name != "ping":
            strictly(RawMessageStreamEvent, data)
        found.append(data)
    blocks = unsigned(content(found))
    whole = message_answer.whole(Answer(), row, hidden=False)
    strictly(Message, whole, ours=("lmx_warning",))
    for kind, member in (("text", "text"), ("thinking", "thinking")):
        assert joined(blocks, kind, member) == joined(whole["content"], kind, member)
    assert [b for b in blocks if b["type"] == "tool_use"] == [
        b for b in whole["content"] if b["type"] == "tool_use"
    ]
    assert found[-2]["delta"]["stop_reason"] == whole["stop_reason"]


def texts(items: list[dict[str, Any]], kind: str) -> str:
    return "".join(part["text"] for item in items if item["type"] == kind for part in item["content"])


@settings(max_examples=80, deadline=None)
@given(answers())
def test_a_stream_of_a_response_is_the_whole_response(deltas: list[Delta]) -> None:
    row = row_of(deltas)
    kept: list[dict[str, Any]] = []
    said = response_request.read(response_schema.ResponseRequest(input="x")).said
    shape = response_answer.Shape(Answer(), said, sealed=False, logprobs=False)
    found = []
    for name, data in events(stream(response_answer.Events(shape, kept.append), deltas)):
        assert name == data["type"]
        strictly(ResponseStreamEvent, data)
        assert data["sequence_number"] == len(found)
        found.append(data)
    last = found[-1]["response"]
    assert kept == [last]
    output = built(found)
    assert output == last["output"]
    if row.finish == "stop":
        bare(output)
    whole = shape.ended(row, Parts.of(row))
    strictly(Response, whole)
    for kind in ("message", "reasoning"):
        streamed = [part["text"] for item in output if item["type"] == kind for part in item["content"]]
        at_once = [
            part["text"] for item in whole["output"] if item["type"] == kind for part in item["content"]
        ]
        assert "".join(streamed) == "".join(at_once)
    calls = [(item["call_id"], item["arguments"]) for item in output if item["type"] == "function_call"]
    assert calls == [(call.id, call.arguments) for call in row.calls]
