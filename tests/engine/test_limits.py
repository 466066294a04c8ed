"""Ceilings: what does not fit is refused with the numbers, and nothing is ever cut to fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from tests.engine.client import Engine

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def _restore(engine: Engine) -> Iterator[None]:
    yield
    engine.send(wire.Configure(context=512, concurrency=16))


def test_a_prompt_over_the_ceiling_names_all_three_numbers(engine: Engine) -> None:
    engine.send(wire.Configure(context=100, context_declared=512))
    refused = engine.ask([5] * 120).refused
    assert refused is not None
    assert refused.code == "context_length_exceeded"
    assert refused.param == "prompt"
    assert refused.details == {"prompt_tokens": 120, "declared": 512, "effective": 100}
    assert "120" in refused.message
    assert "100" in refused.message
    assert "512" in refused.message


def test_a_prompt_that_leaves_no_room_for_output_is_refused(engine: Engine) -> None:
    engine.send(wire.Configure(context=100))
    assert engine.ask([5] * 100).refused is not None
    last = engine.ask([5] * 99, ignore_eos=True)
    assert (last.finish, last.rows[-1].tokens) == ("length", 1)


def test_max_tokens_over_the_ceiling_is_refused_and_says_what_would_fit(engine: Engine) -> None:
    engine.send(wire.Configure(context=100))
    refused = engine.ask([5] * 60, max_tokens=41).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("context_length_exceeded", "max_tokens")
    assert "at most 40" in refused.message
    assert engine.ask([5] * 60, max_tokens=40, ignore_eos=True).rows[-1].tokens == 40
    assert engine.ask([5] * 60, max_tokens=10**12).refused is not None


def test_without_max_tokens_the_models_default_is_capped_by_the_room_left(engine: Engine) -> None:
    engine.send(wire.Configure(context=100, sampling=wire.Sampling(max_tokens=30)))
    assert engine.ask([5] * 60, ignore_eos=True).rows[-1].tokens == 30
    assert engine.ask([5] * 90, ignore_eos=True).rows[-1].tokens == 10
    engine.send(wire.Configure(context=100))
    assert engine.ask([5] * 60, ignore_eos=True).rows[-1].tokens == 40


def test_a_lower_ceiling_leaves_running_rows_alone(engine: Engine) -> None:
    running = engine.submit([5] * 60, max_tokens=200, ignore_eos=True)
    engine.until(lambda: bool(running.rows))
    engine.send(wire.Configure(context=50, concurrency=1))
    refused = engine.ask([5] * 60).refused
    assert refused is not None
    engine.finish(running)
    assert (running.finish, running.rows[-1].tokens) == ("length", 200)


def test_concurrency_holds_and_can_be_raised_while_rows_run(engine: Engine) -> None:
    engine.send(wire.Configure(context=512, concurrency=1))
    first = engine.submit([5] * 8, max_tokens=500, ignore_eos=True)
    second = engine.submit([6] * 8, max_tokens=5, ignore_eos=True)
    engine.until(lambda: len(first.rows) > 20)
    engine.beats.clear()
    engine.until(lambda: any(beat.waiting == 1 and beat.rows == 1 for beat in engine.beats))
    assert second.accepted is None, "it has not begun, so it may still run elsewhere"
    engine.send(wire.Configure(context=512, concurrency=2))
    engine.finish(second)
    assert second.accepted is not None
    assert not first.ended
    engine.finish(first)


def test_requests_over_the_concurrency_are_served_in_order(engine: Engine) -> None:
    engine.send(wire.Configure(context=512, concurrency=1))
    replies = [engine.submit([5 + n] * 8, max_tokens=5, ignore_eos=True) for n in range(4)]
    engine.finish(*replies)
    order = [row.rid for frame in engine.frames if isinstance(frame, wire.Step) for row in frame.rows]
    ours = [rid for rid in order if rid in {reply.rid for reply in replies}]
    assert ours == sorted(ours)


def test_a_huge_prompt_is_refused_in_bounded_time_while_others_stream(engine: Engine) -> None:
    streaming = engine.submit("dog", max_tokens=400, ignore_eos=True)
    engine.until(lambda: bool(streaming.rows))
    huge = engine.submit("The quick brown fox. " * 700_000)  # 14 MB
    began = time.monotonic()
    engine.finish(huge)
    assert huge.refused is not None
    assert huge.refused.code == "context_length_exceeded"
    assert "more than" in huge.refused.message
    assert time.monotonic() - began < 5
    engine.finish(streaming)
    assert streaming.finish == "length"


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(engine: Engine, prompt: str | list[int]) -> None:
    refused = engine.ask(prompt).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "prompt")


@pytest.mark.parametrize("tokens", [[10**6], [-1], [5, 320]])
def test_tokens_outside_the_vocabulary_are_refused(engine: Engine, tokens: list[int]) -> None:
    refused = engine.ask(tokens).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "prompt")


def test_neither_and_both_of_messages_and_prompt_are_refused(engine: Engine) -> None:
    for reply in (engine.ask(), engine.ask("dog", messages=HELLO), engine.ask(messages=[])):
        assert reply.refused is not None
        assert reply.refused.code == "invalid_request"


def test_messages_are_rendered_with_the_models_template(engine: Engine) -> None:
    text = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>"
    asked: dict[str, Any] = {"max_tokens": 5, "ignore_eos": True}
    by_template = engine.ask(messages=HELLO, **asked)
    by_hand = engine.ask(text, **asked)
    assert by_template.accepted is not None
    assert by_hand.accepted is not None
    assert by_template.accepted.prompt_tokens == by_hand.accepted.prompt_tokens
    assert by_template.text == by_hand.text


def test_template_arguments_reach_the_template(engine: Engine) -> None:
    counts = []
    for kwargs in (None, {"enable_thinking": False}, {"flavour": "sweet and sour"}):
        accepted = engine.ask(messages=HELLO, max_tokens=1, template_kwargs=kwargs).accepted
        assert accepted is not None
        counts.append(accepted.prompt_tokens)
    assert counts[1] < counts[0] < counts[2]


def test_content_parts_of_text_are_joined_and_others_refused(engine: Engine) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    whole = engine.ask(messages=HELLO, max_tokens=5, ignore_eos=True)
    joined = engine.ask(messages=[{"role": "user", "content": parts}], max_tokens=5, ignore_eos=True)
    assert joined.text == whole.text
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    refused = engine.ask(messages=image).refused
    assert refused is not None
    assert "image_url" in refused.message


def test_what_the_template_refuses_is_the_clients_mistake(engine: Engine) -> None:
    refused = engine.ask(messages=[{"role": "forbidden", "content": "x"}]).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "messages")
    assert "no such role here" in refused.message


def test_without_a_configuration_the_models_own_limit_is_the_ceiling(
    folder: Path, start: Callable[[], Engine]
) -> None:
    engine = start()
    assert engine.load(folder).context_max == 2048
    refused = engine.ask([5] * 2048).refused
    assert refused is not None
    assert refused.details == {"prompt_tokens": 2048, "declared": None, "effective": 2048}


def test_an_empty_stop_sequence_is_refused(engine: Engine) -> None:
    refused = engine.ask("dog", stop=["x", ""]).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "stop")


def test_zero_limits_still_serve_one_row_and_one_token_at_a_time(engine: Engine) -> None:
    engine.send(wire.Configure(context=512, concurrency=0, prefill_chunk=0))
    assert engine.ask([5] * 20, max_tokens=3, ignore_eos=True).finish == "length"
