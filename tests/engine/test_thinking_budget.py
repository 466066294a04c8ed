"""Thinking ends when its budget is used up, in the batch; a grammar begins behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from appliance import wire
from appliance.engine.answer.formats import FORMATS
from appliance.engine.answer.splitting import Splitter
from tests.engine import models
from tests.engine.answers import joined, plan
from tests.engine.client import Engine, Reply

# The prompt opens the thought, or leaves that to the model, or closes it at once.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
    "{% if not enable_thinking %}OPENCLOSE{% elif how == 'inside' %}OPEN\n{% endif %}"
)
MARKERS = {
    "one token each": (["<think>", "</think>"], "<think>", "</think>"),
    "several tokens": (
        ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
    ),
}
HELLO = [{"role": "user", "content": "Hello"}]
YES = wire.Grammar("regex", "yes!")


class Thinker:
    """An engine whose model thinks, with some of its tokens."""

    def __init__(self, engine: Engine, folder: Path, start: str) -> None:
        self.engine = engine
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.start = self.tokenizer.encode(start, add_special_tokens=False)[0]
        self.dog = self.tokenizer.encode("x", add_special_tokens=False)[0]

    def submit(self, how: str = "inside", **more: Any) -> Reply:
        kwargs = {"how": how, **more.pop("template_kwargs", {})}
        fields = {"max_tokens": 60, "ignore_eos": True, **more}
        return self.engine.submit(messages=HELLO, template_kwargs=kwargs, **fields)

    def ask(self, how: str = "inside", **more: Any) -> Reply:
        reply = self.submit(how, **more)
        self.engine.finish(reply)
        assert reply.refused is None, reply
        return reply


@pytest.fixture(scope="module", params=list(MARKERS))
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thinker]:
    special, start, end = MARKERS[request.param]
    template = TEMPLATE.replace("OPEN", start).replace("CLOSE", end)
    folder = models.write(tmp_path_factory.mktemp("thinks"), template=template, special=special)
    engine = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        engine.load(folder)
        engine.send(wire.Configure(context=512, concurrency=16))
        yield Thinker(engine, folder, start)
    finally:
        engine.close()


def thought(reply: Reply) -> str:
    return "".join(row.more.reasoning for row in reply.rows if row.more is not None)


@pytest.mark.parametrize("budget", [0, 1, 7, 20])
def test_thinking_ends_with_its_budget(thinker: Thinker, budget: int) -> None:
    # a bias makes every free token an x, so that what is forced can be told apart
    reply = thinker.ask(thinking_budget=budget, logit_bias={thinker.dog: 1000.0})
    assert thought(reply) == "x" * budget
    assert reply.text == "x" * len(reply.text) != ""
    assert reply.finish == "length"


def test_without_a_budget_it_thinks_on(thinker: Thinker) -> None:
    reply = thinker.ask(logit_bias={thinker.dog: 1000.0})
    assert (thought(reply), reply.text) == ("x" * 60, "")


def test_the_operators_budget_holds_where_a_request_says_nothing(thinker: Thinker) -> None:
    thinker.engine.send(wire.Configure(context=512, concurrency=16, thinking_budget=4))
    try:
        bias = {thinker.dog: 1000.0}
        assert thought(thinker.ask(logit_bias=bias)) == "x" * 4
        assert thought(thinker.ask(logit_bias=bias, thinking_budget=9)) == "x" * 9
    finally:
        thinker.engine.send(wire.Configure(context=512, concurrency=16))


def test_a_model_that_begins_to_think_by_itself_keeps_to_the_budget(thinker: Thinker) -> None:
    # biased to the token that begins thinking; inside a thought it is a token as any other
    bias = {thinker.start: 1000.0, thinker.dog: 900.0}
    reply = thinker.ask("itself", thinking_budget=3, logit_bias=bias, grammar=YES)
    assert reply.text == "yes!"
    assert reply.finish == "stop"
    used = max(row.more.reasoning_tokens for row in reply.rows if row.more is not None)
    assert used >= 3


def test_a_model_need_not_think_before_an_answer_with_a_grammar(thinker: Thinker) -> None:
    reply = thinker.ask("itself", grammar=YES, logit_bias={thinker.start: -1000.0})
    assert (thought(reply), reply.text, reply.finish) == ("", "yes!", "stop")


def test_where_thinking_is_off_the_grammar_holds_from_the_first_token(thinker: Thinker) -> None:
    off = {"enable_thinking": False}
    reply = thinker.ask("off", template_kwargs=off, grammar=YES, logit_bias={thinker.start: 1000.0})
    assert (thought(reply), reply.text, reply.finish) == ("", "yes!", "stop")
    assert reply.rows[-1].tokens <= 5


def test_a_grammar_begins_behind_the_thought(thinker: Thinker) -> None:
    for budget in (0, 5):
        reply = thinker.ask(thinking_budget=budget, grammar=YES, logit_bias={thinker.dog: 1000.0})
        assert (thought(reply), reply.text, reply.finish) == ("x" * budget, "yes!", "stop")


def test_a_text_with_a_grammar_cannot_end_in_the_middle_of_the_thought(thinker: Thinker) -> None:
    end = thinker.tokenizer.eos_token_id
    reply = thinker.ask(thinking_budget=6, grammar=YES, logit_bias={end: 1000.0}, ignore_eos=False)
    assert (reply.text, reply.finish) == ("yes!", "stop")
    assert reply.rows[-1].tokens >= 6


def test_rows_beside_one_with_a_budget_say_the_same(thinker: Thinker) -> None:
    asked = [{"max_tokens": 30}, {"max_tokens": 40, "presence_penalty": 1.0}, {"temperature": 1.0, "seed": 3}]
    alone = [thinker.ask(**one) for one in asked]
    limited = thinker.submit(thinking_budget=5)
    together = [thinker.submit(**one) for one in asked]
    thinker.engine.finish(limited, *together)
    assert [thought(reply) for reply in together] == [thought(reply) for reply in alone]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert limited.text


def test_what_looks_like_a_marker_in_an_answer_with_a_grammar_is_text() -> None:
    splitter = Splitter(plan(FORMATS["json_tools"], inside=True), stops=("END",))
    splitter.push("hm")
    splitter.settle()
    splitter.push("</think>a <think> b </think> <tool_call>c EN")
    splitter.push("D d")
    splitter.end()
    assert joined(splitter.take()) == [("reasoning", "hm"), ("text", "a <think> b </think> <tool_call>c ")]
    assert splitter.stop == "END"


def test_a_text_that_would_be_a_token_of_its_own_is_refused(thinker: Thinker) -> None:
    special = "<|im_end|>"
    for found in ({"enum": ["a", f"b{special}"]}, {"properties": {special: {}}}, {"const": special}):
        grammar = wire.Grammar("json_schema", json.dumps(found))
        reply = thinker.submit(grammar=grammar)
        thinker.engine.finish(reply)
        assert reply.refused is not None
        assert "is a token of its own" in reply.refused.message


def test_a_schema_behind_a_thought(thinker: Thinker) -> None:
    found = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    grammar = wire.Grammar("json_schema", json.dumps({**found, "additionalProperties": False}))
    reply = thinker.ask(thinking_budget=8, grammar=grammar, temperature=1.0, seed=1, max_tokens=120)
    assert json.loads(reply.text)["ok"] in (True, False)
    assert thought(reply)
