"""The text a client gets is the text mlx-lm's own loop gives, whatever else runs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx_lm
import pytest

from appliance import wire
from tests.engine.client import Engine
from tests.engine.models import generated

PROMPTS = [
    "The quick brown",
    "A model appliance loads",
    "dog",
    "and the dog does not mind at all, does it? " * 4,
    "naïve 東京",
    "fox jumps over",
]
Reference = Callable[..., str]


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    """mlx_lm.generate, without an end token: random weights would end some texts at once."""
    model, tokenizer = mlx_lm.load(str(folder))
    tokenizer.eos_token_ids = set()

    def run(prompt: str | list[int], tokens: int) -> str:
        text = generated(model, tokenizer, prompt, tokens)
        return text

    return run


def test_a_request_alone_gives_the_reference_text(engine: Engine, reference: Reference) -> None:
    for prompt in PROMPTS:
        reply = engine.ask(prompt, max_tokens=40, ignore_eos=True)
        assert reply.text == reference(prompt, 40)
        assert reply.finish == "length"
        assert reply.rows[-1].tokens == 40


def test_requests_that_join_and_leave_a_batch_give_the_reference_text(
    engine: Engine, reference: Reference
) -> None:
    lengths = [12, 60, 25, 80, 40, 7]
    replies = []
    for prompt, tokens in zip(PROMPTS, lengths, strict=True):
        replies.append(engine.submit(prompt, max_tokens=tokens, ignore_eos=True))
        engine.until(lambda: bool(replies[-1].rows))  # it runs before the next one comes
    engine.finish(*replies)
    for prompt, tokens, reply in zip(PROMPTS, lengths, replies, strict=True):
        assert reply.text == reference(prompt, tokens)


def test_requests_that_arrive_together_are_prefilled_together_and_exact(
    engine: Engine, reference: Reference
) -> None:
    replies = [engine.submit(prompt, max_tokens=30, ignore_eos=True) for prompt in PROMPTS]
    engine.finish(*replies)
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        assert reply.text == reference(prompt, 30)


def test_a_prompt_of_one_token_runs_alone_and_beside_others(engine: Engine, reference: Reference) -> None:
    long = engine.submit(PROMPTS[3], max_tokens=60, ignore_eos=True)
    engine.until(lambda: bool(long.rows))
    short = [engine.submit([65], max_tokens=20, ignore_eos=True) for _ in range(2)]
    engine.finish(long, *short)
    assert {reply.text for reply in short} == {reference([65], 20)}
    assert long.text == reference(PROMPTS[3], 60)
    assert engine.ask([65], max_tokens=20, ignore_eos=True).text == reference([65], 20)


def test_a_long_prompt_is_processed_in_chunks_while_others_stream(
    engine: Engine, reference: Reference
) -> None:
    engine.send(wire.Configure(context=2000, concurrency=16, prefill_chunk=32))
    streaming = engine.submit(PROMPTS[0], max_tokens=200, ignore_eos=True)
    engine.until(lambda: bool(streaming.rows))
    long = [40 + n % 200 for n in range(700)]
    late = engine.submit(long, max_tokens=8, ignore_eos=True)
    engine.until(lambda: late.accepted is not None)
    before = len(streaming.rows)
    engine.until(lambda: bool(late.rows))
    between = len(streaming.rows) - before
    engine.finish(streaming, late)
    engine.send(wire.Configure(context=512, concurrency=16))
    assert between >= 10  # of the 22 chunks
    assert late.text == reference(long, 8)
    assert streaming.text == reference(PROMPTS[0], 200)


def test_a_short_prompt_does_not_wait_for_a_long_one(engine: Engine) -> None:
    engine.send(wire.Configure(context=2000, concurrency=16, prefill_chunk=16))
    long = engine.submit([40 + n % 200 for n in range(1500)], max_tokens=2)
    short = engine.submit("The quick", max_tokens=2, ignore_eos=True)
    engine.finish(short)
    assert not long.rows
    engine.finish(long)
    engine.send(wire.Configure(context=512, concurrency=16))


def test_the_end_token_ends_a_text_and_is_not_part_of_it(
    folder: Path, start: Callable[[], Engine], reference: Reference
) -> None:
    text = reference("The quick brown", 30)
    _, tokenizer = mlx_lm.load(str(folder))
    engine = start()
    engine.load(folder)
    engine.send(wire.Configure(context=512))
    free = engine.ask("The quick brown", max_tokens=30, ignore_eos=True)
    end = tokenizer.encode("<|im_end|>")[0]
    reply = engine.ask("The quick brown", max_tokens=30, logit_bias={end: 1000.0})
    assert (reply.text, reply.finish, reply.rows[-1].tokens) == ("", "stop", 1)
    assert free.text == text


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_sent(engine: Engine, reference: Reference) -> None:
    text = reference(PROMPTS[0], 60)
    for at in range(5, len(text) - 8, 7):
        for length in (1, 2, 5, 8):
            stop = text[at : at + length]
            reply = engine.ask(PROMPTS[0], max_tokens=60, ignore_eos=True, stop=[stop, "never to be seen"])
            assert reply.text == text[: text.index(stop)]
            assert reply.finish == "stop"
            assert reply.rows[-1].stop == stop
            if at > 40:
                break


def test_text_held_back_for_a_stop_string_is_sent_when_the_text_ends(
    engine: Engine, reference: Reference
) -> None:
    text = reference(PROMPTS[0], 20)
    reply = engine.ask(PROMPTS[0], max_tokens=20, ignore_eos=True, stop=[text[-3:] + "and more"])
    assert reply.text == text
    assert reply.finish == "length"


def test_one_frame_carries_all_rows_of_a_step(engine: Engine) -> None:
    start = len(engine.frames)
    replies = [engine.submit(prompt, max_tokens=40, ignore_eos=True) for prompt in PROMPTS]
    engine.finish(*replies)
    steps = [frame for frame in engine.frames[start:] if isinstance(frame, wire.Step)]
    assert len(steps) <= 40 + 2 * len(PROMPTS)
    assert max(len(step.rows) for step in steps) >= 4


def test_usage_counts_what_was_read_and_written(engine: Engine) -> None:
    reply = engine.ask([10, 20, 30, 40], max_tokens=9, ignore_eos=True)
    assert reply.accepted == wire.Accepted(reply.rid, prompt_tokens=4)
    assert reply.rows[-1].tokens == 9
