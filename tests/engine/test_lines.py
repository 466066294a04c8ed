"""What the parent is told of each token: parts in order, thoughts counted, log-probabilities in place."""

from __future__ import annotations

from typing import Any

import pytest
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, NaiveStreamingDetokenizer, TokenizerWrapper
from transformers import AutoTokenizer

from appliance import wire
from appliance.engine import lines, token_bytes
from appliance.engine.answer.plan import PLAIN, Plan
from appliance.engine.answer.splitting import Part
from appliance.engine.choice import Choice
from appliance.engine.likely import Likely
from appliance.engine.output import Output
from appliance.engine.prompt import Job
from appliance.engine.row import Row
from appliance.engine.sampling import greedy
from tests.engine.answers import joined, plan
from tests.engine.models import tokenizer as write_tokenizer

CALL = '<tool_call>{"name": "ping", "arguments": {"a": "é"}}</tool_call>'
END = -1


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    inner = AutoTokenizer.from_pretrained(folder)
    inner.add_tokens(["<think>", "</think>"], special_tokens=True)
    return TokenizerWrapper(inner, BPEStreamingDetokenizer)


def told(
    wrapper: TokenizerWrapper,
    text: str,
    made: Plan = PLAIN,
    *,
    most: int = 1000,
    stop: tuple[str, ...] = (),
    logprobs: bool = False,
) -> list[list[wire.Row]]:
    """The lines of each token, up to the one with `finish`."""
    tokens = [*wrapper.encode(text, add_special_tokens=False), END]
    job = Job(1, [0], most, Choice(), None, stop, False, logprobs=0 if logprobs else None, plan=made)
    row = Row(job, Output(wrapper, stop, made), sampler=greedy, processor=None)
    found = []
    for token in tokens:
        row.tokens.append(token)
        if logprobs:
            row.likely.append((token, Likely(-0.5, [])))
        found.append(lines.newest(row, token, frozenset({END})))
        if found[-1] and found[-1][-1].finish is not None:
            break
    return found


def parts(rows: list[list[wire.Row]]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, Any]] = []
    for line in (line for some in rows for line in some):
        more = line.more or wire.More()
        if more.reasoning:
            found.append(("reasoning", more.reasoning))
        if line.text:
            found.append(("text", line.text))
        found += [("call", part) for part in more.calls]
    return joined(found)


def test_parts_come_in_their_order(wrapper: TokenizerWrapper) -> None:
    text = f"<think>\nhm\n</think>\n\nI look.\n{CALL}\nNow."
    rows = told(wrapper, text, plan("json_tools"))
    assert parts(rows) == [
        ("reasoning", "hm"),
        ("text", "I look."),
        ("call", 0, "ping", '{"a": "é"}'),
        ("text", "Now."),
    ]
    finishes = [line.finish for some in rows for line in some]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]


def test_text_behind_a_call_takes_a_line_of_its_own(wrapper: TokenizerWrapper) -> None:
    """One token may end a call and go on."""
    row = Row(Job(1, [0], 9, Choice(), None, (), False), Output(wrapper, ()), sampler=greedy, processor=None)
    call = wire.CallPart(0, "call_x", "ping", "{}")
    pieces: tuple[Part, ...] = (
        ("text", "a"),
        ("call", call),
        ("text", "b"),
        ("reasoning", "c"),
        ("warning", "w"),
        ("warning", "v"),
    )
    found = lines.several(row, pieces, "length", None)
    assert [(line.text, (line.more or wire.More()).reasoning) for line in found] == [
        ("a", ""),
        ("b", ""),
        ("", "c"),
        ("", ""),
    ]
    assert [line.finish for line in found] == [None, None, None, "length"]
    assert [(line.more or wire.More()).warning for line in found] == [None, None, "w", "v"]
    assert found[0].more == wire.More(calls=[call])


def test_tokens_of_thinking_are_counted(wrapper: TokenizerWrapper) -> None:
    text = "<think>two words</think>yes"
    rows = told(wrapper, text, plan(None))
    thought = len(wrapper.encode("<think>two words</think>", add_special_tokens=False))
    counts = [line.more.reasoning_tokens for some in rows for line in some if line.more is not None]
    assert counts == sorted(counts)
    assert counts[-1] == thought
    plain = [line for some in rows for line in some if line.more is None]
    assert "".join(line.text for line in plain) != ""  # what follows costs nothing more


def test_a_thought_that_max_tokens_cuts(wrapper: TokenizerWrapper) -> None:
    rows = told(wrapper, "<think>two words", plan(None), most=3)
    assert parts(rows)[0][0] == "reasoning"
    last = rows[-1][-1]
    assert (last.finish, last.tokens) == ("length", 3)
    assert last.more is not None
    assert last.more.reasoning_tokens == 3


def test_each_log_probability_comes_once_with_its_text_or_right_after(wrapper: TokenizerWrapper) -> None:
    text = f"<think>hm</think>Größe 🙂.\n{CALL}"
    tokens = wrapper.encode(text, add_special_tokens=False)
    for made in (plan("json_tools"), PLAIN):
        rows = told(wrapper, text, made, logprobs=True, stop=("Größe 🦊",))
        found = [one for some in rows for line in some if line.more for one in line.more.logprobs]
        assert b"".join(one.token for one in found).decode() == text  # the end of the text is no text
        assert len(found) == len(tokens)
        seen = 0
        for at, some in enumerate(rows):
            for line in some:
                seen += len(line.more.logprobs) if line.more else 0
                assert seen == min(at + 1, len(tokens)), (
                    "what is sent has the log-probabilities of all before"
                )


def test_half_a_character_has_bytes(wrapper: TokenizerWrapper) -> None:
    text = " é🙂 plain<think>"
    general = TokenizerWrapper(wrapper._tokenizer, NaiveStreamingDetokenizer)
    tokens = wrapper.encode(text, add_special_tokens=False)
    assert b"".join(map(token_bytes.of(wrapper), tokens)).decode() == text
    assert (
        b"".join(token_bytes.of(general)(token) for token in general.encode("plain<think>"))
        == b"plain<think>"
    )


def test_plain_rows_have_nothing_but_text(wrapper: TokenizerWrapper) -> None:
    rows = told(wrapper, f"<think>x</think>{CALL}", PLAIN)
    assert all(line.more is None for some in rows for line in some)
    assert parts(rows) == [("text", f"<think>x</think>{CALL}")]
