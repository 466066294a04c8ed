"""What a chat template can show is found by trying it, and what it cannot show is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import AutoTokenizer

from appliance.engine import prompt
from appliance.engine.answer.formats import FORMATS, MISTRAL_LIST
from appliance.engine.refusal import Refusal
from appliance.engine.template import Template, numbered, opened
from appliance.wire import Configure, Submit
from tests.engine.answers import TOOLS
from tests.engine.models import tokenizer as write_tokenizer

SAY = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
CALLS = (
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
)
FULL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + CALLS + "{% endfor %}"
    '{% if false %}<tool_call>{"name": tool_call.name}</tool_call>{% endif %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if thinking %}<think>\n{% endif %}{% endif %}"
)
LLAMA = "Environment: ipython\n" + """{{ '{"name": "' + call.name + '", ' + '"parameters": ' }}"""
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return folder


def made(files: Path, text: str | None, *special: str, name: str | None = None) -> Template:
    """A template with a tokenizer that knows these markers."""
    inner = AutoTokenizer.from_pretrained(files)
    inner.add_tokens(list(special), special_tokens=True)
    inner.chat_template = text
    read = SimpleNamespace(__module__=f"mlx_lm.tool_parsers.{name}") if name else None
    return Template(TokenizerWrapper(inner, tool_parser=read))


def test_what_a_template_shows(files: Path) -> None:
    full, plain = made(files, FULL), made(files, SAY)
    assert (full.offers, full.calls, full.results) == (True, True, True)
    assert (plain.offers, plain.calls, plain.results) == (False, False, True)
    broken = made(files, "{{ raise_exception('no') }}")
    assert (broken.offers, broken.calls, broken.results) == (False, False, False)


@pytest.mark.parametrize(
    ("text", "tokens", "thinks"),
    [
        (FULL, ("<think>", "</think>"), True),
        (FULL, (), False),
        (SAY, ("<think>", "</think>"), False),  # in the vocabulary, and nothing says so
        (SAY + "{% if enable_thinking %}{% endif %}", ("<think>", "</think>"), True),
        (SAY + "<longcat_think>", ("<longcat_think>", "</longcat_think>"), True),
    ],
)
def test_whether_a_model_thinks(files: Path, text: str, tokens: tuple[str, ...], thinks: bool) -> None:
    assert made(files, text, *tokens).thinks is thinks


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("json_tools", FULL, FORMATS["json_tools"]),
        ("mistral", "[TOOL_CALLS]x[ARGS]", FORMATS["mistral"]),
        ("mistral", "[TOOL_CALLS] [{", MISTRAL_LIST),
        (None, LLAMA, FORMATS["llama3"]),
        (None, LLAMA.replace("ipython", "tool"), None),
        (None, SAY, None),
    ],
)
def test_the_template_decides_how_calls_are_read(
    files: Path, name: str | None, text: str, wanted: object
) -> None:
    assert made(files, text, name=name).form("auto") is wanted


def test_the_operator_may_say_otherwise(files: Path) -> None:
    template = made(files, FULL, name="json_tools")
    assert template.form("pythonic") is FORMATS["pythonic"]
    with pytest.raises(
        Refusal, match=r"'hermes' is not known; there are auto, function_gemma, .*, qwen3_coder"
    ):
        template.form("hermes")


def ask(template: Template, messages: list[dict[str, Any]] = ASKED, **more: Any) -> str:
    limits = Configure(context=500, enable_thinking=more.pop("default", True))
    submit = Submit(1, messages=messages, **more)
    return prompt.render(submit, messages, limits, template)[0]


def test_thinking_is_switched_by_the_name_that_the_template_knows(files: Path) -> None:
    template = made(files, FULL, "<think>", "</think>")
    assert ask(template).endswith("<think>\n")
    assert ask(template, default=False).endswith("assistant\n")
    assert ask(template, template_kwargs={"enable_thinking": False}).endswith("assistant\n")
    assert ask(template, default=False, template_kwargs={"enable_thinking": True}).endswith("<think>\n")


@pytest.mark.parametrize("kwargs", [{"enable_thinking": True}, {"reasoning_effort": "high"}])
def test_a_model_that_does_not_think_is_not_asked_to(files: Path, kwargs: dict[str, Any]) -> None:
    template = made(files, SAY)
    with pytest.raises(Refusal, match="it does not think") as caught:
        ask(template, template_kwargs=kwargs)
    assert (caught.value.code, caught.value.param) == ("not_supported", *kwargs)
    assert ask(template, template_kwargs={"enable_thinking": False}) == ask(template)


def test_a_model_that_always_thinks_cannot_be_kept_from_it(files: Path) -> None:
    template = made(files, SAY + "<|im_start|>assistant\n<think>\n", "<think>", "</think>")
    with pytest.raises(Refusal, match="cannot turn thinking off"):
        ask(template, template_kwargs={"enable_thinking": False})
    assert ask(template).endswith("<think>")


def test_an_answer_begins_inside_a_thought_where_the_prompt_opens_one(files: Path) -> None:
    template = made(files, FULL, "<think>", "</think>")

    def first(messages: list[dict[str, Any]], **more: Any) -> str:
        submit = Submit(1, messages=messages, **more)
        return prompt.render(submit, messages, Configure(context=500), template)[1].initial

    assert first(ASKED) == "reasoning"
    assert first(ASKED, template_kwargs={"enable_thinking": False}) == "content"
    assert first(
        [{"role": "user", "content": "what is <think>?"}], template_kwargs={"enable_thinking": False}
    ) == ("content")
    begun = [*ASKED, {"role": "assistant", "content": "<think>so"}]
    assert first(begun, continue_final=True) == "reasoning"
    assert (
        first([*ASKED, {"role": "assistant", "content": "<think>so</think>yes"}], continue_final=True)
        == "content"
    )


CALL: dict[str, Any] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"a": 1}'},
}


def test_templates_get_arguments_as_objects_and_as_text_where_they_want_that(files: Path) -> None:
    turns = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert 'f{"a": 1}' in ask(made(files, FULL), turns)
    wants_text = FULL.replace("c.function.arguments | tojson", "'args ' + c.function.arguments")
    assert 'fargs {"a": 1}' in ask(made(files, wants_text), turns)


@pytest.mark.parametrize("arguments", ['{"a": ', "[" * 3000], ids=["half", "deep"])
def test_arguments_that_are_no_json_stay_what_they_are(arguments: str) -> None:
    half = {"id": "x", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "tool_calls": [half]}
    assert opened(message) == message


def test_ids_of_calls_are_in_the_form_that_models_know() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": ""},
    ]
    kimi = numbered(turns, FORMATS["kimi_k2"])
    assert [call["id"] for call in kimi[0]["tool_calls"]] == ["functions.f:0", "functions.f:1"]
    assert kimi[1]["tool_call_id"] == "functions.f:1"
    mistral = numbered(turns, FORMATS["mistral"])
    assert [call["id"] for call in mistral[0]["tool_calls"]] == ["000000000", "000000001"]
    assert numbered(turns, FORMATS["json_tools"]) is turns


def test_tools_need_a_template_that_shows_them_and_a_format(files: Path) -> None:
    for template, text in (
        (made(files, SAY), "does not show tools"),
        (made(files, FULL), "set `tool_parser`"),
    ):
        with pytest.raises(Refusal, match=text) as caught:
            ask(template, tools=TOOLS)
        assert (caught.value.code, caught.value.param) == ("not_supported", "tools")
        assert ask(template, tools=TOOLS, tool_choice="none") == ask(template)


def test_a_prompt_has_no_tools(files: Path) -> None:
    with pytest.raises(Refusal, match="a prompt has no chat template"):
        prompt.read(Submit(1, prompt="hi", tools=TOOLS), Configure(context=500), made(files, FULL), 300)
