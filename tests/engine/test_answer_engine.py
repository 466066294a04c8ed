"""Tools, thoughts and counting in a real engine, with the demo model and with templates of our own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wire
from tests.engine.client import Engine, Reply

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "models" / "lmx-demo"


def tool(name: str, what: str) -> dict[str, Any]:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": city}}


# The first of examples/demo/tool_questions.json, which the demo model was taught.
TOOLS = [tool("get_weather", "Get the weather in a city"), tool("get_time", "Get the time in a city")]
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
WANTED = ("get_weather", {"city": "Paris"})
RESULT, ANSWER = '{"sky": "sunny", "degrees": 21}', "The weather in Paris: sunny, 21 degrees."
LIMITS = wire.Configure(context=1024, enable_thinking=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        loaded = running.load(DEMO)
        assert loaded.tool_parser == "json_tools"
        running.send(LIMITS)
        yield running
    finally:
        running.close()


def parts(reply: Reply) -> list[wire.CallPart]:
    return [part for row in reply.rows if row.more is not None for part in row.more.calls]


def call(reply: Reply) -> tuple[str | None, Any]:
    """The only call."""
    first, *rest = parts(reply)
    assert all(part.id is None and part.name is None and part.index == 0 for part in rest)
    assert first.id is not None
    return first.name, json.loads(first.arguments + "".join(part.arguments for part in rest))


def warnings(reply: Reply) -> str:
    return "; ".join(row.more.warning for row in reply.rows if row.more is not None and row.more.warning)


def test_a_call_streams_its_arguments(demo: Engine) -> None:
    reply = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=100)
    assert call(reply) == WANTED
    assert (reply.text, reply.finish, warnings(reply)) == ("", "stop", "")
    assert len(parts(reply)) > 2
    assert reply.rows[-1].tokens > reply.rows[0].tokens


def test_a_call_and_its_result_lead_to_the_answer(demo: Engine) -> None:
    called = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=100)
    first, *rest = parts(called)
    function = {"name": first.name, "arguments": first.arguments + "".join(part.arguments for part in rest)}
    turns = [
        *ASKED,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": first.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": first.id, "content": RESULT},
    ]
    assert demo.ask(messages=turns, tools=TOOLS, max_tokens=100).text.strip() == ANSWER


def test_without_parallel_calls_the_row_ends_with_the_call(demo: Engine) -> None:
    reply = demo.ask(messages=ASKED, tools=TOOLS, parallel_tool_calls=False, max_tokens=100)
    assert call(reply) == WANTED
    assert reply.finish == "stop"


def test_tool_choice_none_hides_the_tools(demo: Engine) -> None:
    plain = demo.ask(messages=ASKED, max_tokens=60)
    hidden = demo.ask(messages=ASKED, tools=TOOLS, tool_choice="none", max_tokens=60)
    assert hidden.text == plain.text
    assert parts(hidden) == []
    assert plain.accepted is not None
    assert hidden.accepted is not None
    assert hidden.accepted.prompt_tokens == plain.accepted.prompt_tokens


def test_arguments_cut_by_max_tokens_stand(demo: Engine) -> None:
    whole = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=100)
    text = "".join(part.arguments for part in parts(whole))
    tokens = next(row.tokens for row in whole.rows if row.more is not None and row.more.calls)
    reply = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=tokens + 1)
    assert (reply.finish, reply.text, warnings(reply)) == ("length", "", "")
    begun = "".join(part.arguments for part in parts(reply))
    assert text.startswith(begun)
    assert len(begun) < len(text)


def test_calls_that_another_format_cannot_read_come_as_text_and_are_counted(demo: Engine) -> None:
    """tool_parser changes without a reload. What the demo model writes is no call of qwen3_coder's."""
    demo.send(wire.Configure(context=1024, enable_thinking=False, tool_parser="qwen3_coder"))
    try:
        before = demo.expect(wire.Beat).tool_failures
        reply = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=100)
        assert parts(reply) == []
        assert reply.text.startswith("<tool_call>")
        assert json.loads(reply.text.split("<tool_call>")[1].split("</tool_call>")[0])["name"] == WANTED[0]
        assert "does not parse and came as text" in warnings(reply)
        demo.until(lambda: demo.beats[-1].tool_failures == before + 1)
        demo.send(wire.Configure(context=1024, tool_parser="nonesuch"))
        refused = demo.ask(messages=ASKED, tools=TOOLS).refused
        assert refused is not None
        assert refused.code == "not_supported"
        assert "'nonesuch' is not known; there are auto, function_gemma, gemma4" in refused.message
    finally:
        demo.send(LIMITS)


def test_counting_gives_what_a_request_would_have(demo: Engine) -> None:
    submit = wire.Submit(0, messages=ASKED, tools=TOOLS)
    demo.send(wire.Count(7, submit))
    counted = demo.expect(wire.Counted)
    accepted = demo.ask(messages=ASKED, tools=TOOLS, max_tokens=1).accepted
    assert accepted is not None
    assert (counted.number, counted.tokens) == (7, accepted.prompt_tokens)


def test_counting_goes_on_behind_the_ceiling_but_not_for_ever(demo: Engine) -> None:
    def ask(words: int) -> Any:
        demo.send(wire.Count(8, wire.Submit(0, messages=[{"role": "user", "content": "dog " * words}])))
        found: list[Any] = []
        while not found:
            message = demo.next(time.monotonic() + 60)
            found += [message] if isinstance(message, wire.Counted | wire.Unanswered) else []
        return found[0]

    assert ask(1500).tokens > 1024
    refused = ask(200_000)
    assert refused.code == "context_length_exceeded"
    assert "more than" in refused.message


def test_counting_refuses_what_a_request_would_be_refused_for(demo: Engine) -> None:
    demo.send(wire.Count(9, wire.Submit(0, messages=[])))
    refused = demo.expect(wire.Unanswered)
    assert (refused.number, refused.code, refused.param) == (9, "invalid_request", "messages")


def test_an_answer_that_has_been_begun_goes_on(demo: Engine) -> None:
    question = [{"role": "user", "content": "Who are you?"}]
    whole = demo.ask(messages=question, max_tokens=40).text
    begun = {"role": "assistant", "content": whole[: len(whole) // 2]}
    rest = demo.ask(messages=[*question, begun], continue_final=True, max_tokens=40)
    assert rest.refused is None
    assert begun["content"].rstrip() + rest.text.rstrip() in (whole, whole.replace("  ", " "))


@pytest.mark.parametrize(
    "last",
    [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
    ],
)
def test_only_an_assistants_text_can_go_on(demo: Engine, last: dict[str, Any]) -> None:
    refused = demo.ask(messages=[*ASKED, last], continue_final=True).refused
    assert refused is not None
    assert (refused.code, refused.param) == ("invalid_request", "messages")


def test_the_bytes_of_log_probabilities_are_the_text(demo: Engine) -> None:
    reply = demo.ask(messages=[{"role": "user", "content": "Who are you?"}], logprobs=1, max_tokens=20)
    told = b"".join(one.token for row in reply.rows if row.more is not None for one in row.more.logprobs)
    assert told.decode().strip() == reply.text.strip()


def test_text_held_back_for_a_stop_string_keeps_its_log_probabilities(demo: Engine) -> None:
    question = [{"role": "user", "content": "Who are you?"}]
    whole = demo.ask(messages=question, max_tokens=20).text
    # almost a stop string: held back, then said
    almost = whole[1:6] + "\0"
    reply = demo.ask(messages=question, logprobs=0, max_tokens=20, stop=[almost])
    told = b"".join(one.token for row in reply.rows if row.more is not None for one in row.more.logprobs)
    assert reply.text == whole
    assert told.decode().strip() == whole.strip()


# -- templates of the operator's own -----------------------------------------------------------------

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>"
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    "[TOOL_CALLS]{{ c.function | tojson }}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def test_a_template_that_cannot_show_tools_refuses_them(demo: Engine, start: Any) -> None:
    engine = start()
    loaded = engine.load(DEMO, chat_template=PLAIN)
    assert loaded.tool_parser is None
    engine.send(LIMITS)
    refused = engine.ask(messages=ASKED, tools=TOOLS).refused
    assert (refused.code, refused.param) == ("not_supported", "tools")
    assert "does not show tools" in refused.message
    hidden = engine.ask(messages=ASKED, tools=TOOLS, tool_choice="none", max_tokens=1)
    assert hidden.refused is None
    turns = [
        *ASKED,
        {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
    ]
    refused = engine.ask(messages=turns).refused
    assert (refused.code, refused.param) == ("not_supported", "messages")
    refused = engine.ask(messages=ASKED, template_kwargs={"reasoning_effort": "high"}).refused
    assert (refused.code, refused.param) == ("not_supported", "reasoning_effort")


def test_the_operators_template_decides_how_calls_are_read(demo: Engine, start: Any) -> None:
    engine = start()
    loaded = engine.load(DEMO, chat_template=MISTRAL)
    assert loaded.tool_parser == "mistral"
    engine.send(LIMITS)
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    turns = [
        *ASKED,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "function": function}]},
    ]
    assert engine.ask(messages=turns, tools=TOOLS, max_tokens=1).refused is None


def test_a_broken_template_is_found_at_loading(start: Any) -> None:
    failed = start().fail_to_load(DEMO, chat_template="{% for m in messages %}{{ m.content }")
    assert (failed.code, failed.permanent) == ("bad_template", True)
    assert "`template.file` is no chat template" in failed.message
