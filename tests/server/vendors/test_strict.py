"""The check itself must be able to fail."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import ResponseStreamEvent

from tests.server.vendors.strict import strictly

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "demo",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
DELTA: dict[str, Any] = {
    "type": "response.output_text.delta",
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "delta": "x",
    "logprobs": [],
    "sequence_number": 1,
}


def test_what_is_right_passes() -> None:
    strictly(Message, MESSAGE)
    strictly(RawMessageStreamEvent, {"type": "message_stop"})
    strictly(ResponseStreamEvent, DELTA)


@pytest.mark.parametrize("missing", ["id", "content", "usage", "role", "model", "type"])
def test_a_missing_member_fails(missing: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        strictly(Message, {key: value for key, value in MESSAGE.items() if key != missing})


@pytest.mark.parametrize("missing", ["item_id", "sequence_number", "delta"])
def test_a_missing_member_of_an_event_fails(missing: str) -> None:
    with pytest.raises((pydantic.ValidationError, AssertionError)):
        strictly(ResponseStreamEvent, {key: value for key, value in DELTA.items() if key != missing})


def test_an_unknown_member_fails_at_any_depth() -> None:
    with pytest.raises(AssertionError, match="surprise"):
        strictly(Message, {**MESSAGE, "surprise": 1})
    with pytest.raises(AssertionError, match="surprise"):
        strictly(Message, {**MESSAGE, "content": [{"type": "text", "text": "x", "surprise": 1}]})
    with pytest.raises(AssertionError, match="surprise"):
        strictly(ResponseStreamEvent, {**DELTA, "surprise": 1})
    strictly(Message, {**MESSAGE, "surprise": 1}, ours=("surprise",))


def test_a_wrong_word_fails() -> None:
    with pytest.raises(pydantic.ValidationError):
        strictly(Message, {**MESSAGE, "stop_reason": "tired"})
