"""What comes of answers as models write them: thoughts, text, calls, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.engine.answer.formats import FORMATS, MISTRAL_LIST, NAMES, CallFormat
from tests.engine.answers import NOTHING, calls, plan, split, texts, tool, written

PARIS: tuple[str, dict[str, Any]] = ("get_weather", {"city": "Paris", "days": 3, "exact": True})
FORMS = [*FORMATS.values(), MISTRAL_LIST]
JSON_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def name_of(form: CallFormat) -> str:
    return form.name if form is not MISTRAL_LIST else "mistral_list"


def test_every_parser_of_mlx_lm_is_in_the_table() -> None:
    import pkgutil

    import mlx_lm.tool_parsers as theirs

    found = {module.name for module in pkgutil.iter_modules(theirs.__path__)}
    assert found | {"llama3"} == set(NAMES)


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_call_is_read_as_the_table_writes_it(form: CallFormat) -> None:
    before = "" if form.name == "llama3" else "Let me see.\n"
    parts, _ = split(plan(form), before + written(form, [PARIS]))
    assert texts(parts, "text") == before.strip()
    assert calls(parts) == [PARIS]
    assert texts(parts, "warning") == ""


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_several_calls_in_one_answer(form: CallFormat) -> None:
    wanted = [PARIS, ("ping", {}), ("get_weather", {"city": "Rome"})]
    parts, _ = split(plan(form), written(form, wanted))
    assert calls(parts) == wanted
    assert [part[1] for part in parts] == [0, 1, 2]


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_without_parallel_calls_the_answer_ends_with_the_first(form: CallFormat) -> None:
    parts, _ = split(plan(form, single=True), written(form, [PARIS, PARIS]) + " and more")
    assert calls(parts) == [PARIS]
    assert len(parts) == 1


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_call_of_an_unknown_tool_comes_as_the_text_it_is(form: CallFormat) -> None:
    text = written(form, [("get_secrets", {"city": "Paris"})])
    parts, _ = split(plan(form), text)
    assert texts(parts, "text") == text
    assert "'get_secrets', which is no tool of this request" in texts(parts, "warning")
    assert calls(parts) == []


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_tool_that_may_not_be_called_is_unknown(form: CallFormat) -> None:
    parts, _ = split(plan(form, names=["ping"]), written(form, [PARIS]))
    assert calls(parts) == []
    assert "get_weather" in texts(parts, "warning")


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_call_cut_short_by_max_tokens_loses_nothing(form: CallFormat) -> None:
    whole = written(form, [PARIS])
    half = whole[: whole.index("Paris") + 3]
    parts, _ = split(plan(form), half, cut=True)
    if form.json:
        assert parts == [("call", 0, "get_weather", '{"city": "Par')]  # what there is, as OpenAI does it
    else:
        assert texts(parts, "text") == half
        assert "the answer ends inside it" in texts(parts, "warning")


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_a_call_that_the_model_leaves_open_is_told(form: CallFormat) -> None:
    whole = written(form, [PARIS])
    parts, _ = split(plan(form), whole[: whole.index("Paris") + 3])
    if form.json:
        assert "broke off" in texts(parts, "warning")
    else:  # each parser of mlx-lm makes of it what it can
        assert texts(parts, "warning") != "" or calls(parts) != []


@pytest.mark.parametrize("form", [form for form in FORMS if form.start], ids=name_of)
def test_without_tools_what_looks_like_a_call_is_text(form: CallFormat) -> None:
    text = written(form, [PARIS])
    assert split(plan(None, thinks=True), text)[0] == [("text", text)]


@pytest.mark.parametrize("form", [form for form in FORMS if form.start], ids=name_of)
def test_a_call_ends_a_thought_that_was_left_open(form: CallFormat) -> None:
    parts, _ = split(plan(form, inside=True), "I should look.\n" + written(form, [PARIS]))
    assert parts[0] == ("reasoning", "I should look.")
    assert calls(parts) == [PARIS]


# -- thoughts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 3, 5, 100])
def test_thoughts_wherever_the_markers_are_cut(step: int) -> None:
    text = "<think>\nTwo and two.\n</think>\n\nFour."
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    assert split(plan(None), pieces)[0] == [("reasoning", "Two and two."), ("text", "Four.")]


def test_a_prompt_that_ends_inside_a_thought() -> None:
    assert split(plan(None, inside=True), "hm</think>yes")[0] == [("reasoning", "hm"), ("text", "yes")]
    assert split(plan(None, inside=True), "hm", cut=True)[0] == [("reasoning", "hm")]


def test_thinking_more_than_once() -> None:
    text = f"<think>a</think>b<think>c</think>{JSON_CALL}"
    kinds = [part[0] for part in split(plan("json_tools"), text)[0]]
    assert kinds == ["reasoning", "text", "reasoning", "call"]


def test_an_empty_thought_leaves_nothing() -> None:
    assert split(plan(None), "<think>\n\n</think>\n\nyes")[0] == [("text", "yes")]


def test_the_beginning_of_a_marker_that_is_none() -> None:
    assert split(plan(None), ["a <th", "ing> <thi"])[0] == [("text", "a <thing> <thi")]


# -- stop strings ------------------------------------------------------------------------------------


def test_stop_strings_count_in_what_is_said_only() -> None:
    made = plan("json_tools")
    text = f"<think>Paris</think>In {JSON_CALL} Paris it rains"
    parts, stop = split(made, text, stops=("Paris",))
    assert stop == "Paris"
    assert texts(parts, "reasoning") == "Paris"
    assert calls(parts) == [("get_weather", {"city": "Paris"})]
    assert texts(parts, "text") == "In"


def test_of_a_stop_string_and_a_marker_the_one_that_is_complete_first_counts() -> None:
    assert split(plan(None), "a</th<think>b", stops=("<think",)) == ([("text", "a</th")], "<think")
    assert split(plan(None), "a<think>b", stops=("<think>b",))[1] is None


# -- JSON as models write it -------------------------------------------------------------------------


def asked(text: str) -> list[tuple[Any, ...]]:
    return split(plan("json_tools"), f"<tool_call>{text}</tool_call>")[0]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "arguments": {"city": "Paris"}}',
        '{"arguments": {"city": "Paris"}, "name": "get_weather"}',
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '{"id": 1, "type": null, "name": "get_weather", "arguments": {"city": "Paris"}, "x": [{"y": "}"}]}',
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}',
        '[{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        '\n{"name": "get_\\u0077eather",\n"arguments":\n{"city":\t"Paris"}}\n',
    ],
)
def test_forms_of_one_call(text: str) -> None:
    assert calls(asked(text)) == [("get_weather", {"city": "Paris"})]


@pytest.mark.parametrize("arguments", ["", ', "arguments": null', ', "arguments": {}'])
def test_no_arguments(arguments: str) -> None:
    assert calls(asked(f'{{"name": "ping"{arguments}}}')) == [("ping", {})]


def test_arguments_are_passed_on_as_they_are_written() -> None:
    text = '{ "city" :"a\\u00e9\\n", "n": [ 1.50e+3, true ,null ] }'
    assert asked(f'{{"name": "ping", "arguments": {text}}}') == [("call", 0, "ping", text)]


def test_arguments_come_while_they_are_written() -> None:
    from appliance.engine.answer.splitting import Splitter

    splitter = Splitter(plan("json_tools"))
    splitter.push('<tool_call>{"name": "get_weather", "arguments": {"city": "Par')
    [(kind, part)] = splitter.take()
    assert (kind, getattr(part, "arguments", None)) == ("call", '{"city": "Par')


def test_line_breaks_inside_strings_are_escaped() -> None:
    parts = asked('{"name": "ping", "arguments": {"code": "a\n\tb"}}')
    assert calls(parts) == [("ping", {"code": "a\n\tb"})]


def test_an_end_marker_inside_a_string_ends_nothing() -> None:
    parts = asked('{"name": "ping", "arguments": {"code": "</tool_call>"}}')
    assert calls(parts) == [("ping", {"code": "</tool_call>"})]


@pytest.mark.parametrize(
    "text",
    [
        "oops",
        "{}",
        "[]",
        "{'name': 'ping'}",
        '{"name": "ping" "arguments": {}}',
        '{"name": "ping", "arguments": 3}',
        '{"name": "ping", "arguments": "no"}',
        '{"name": "ping", "arguments": "\\"no\\""}',
        '{"name": "ping", "arguments": "{\\"a\\": \\"\\ud800\\"}"}',  # half a character cannot be sent
        f'{{"name": "ping", "arguments": "{"[" * 3000}"}}',  # deeper than any reader goes
        '{"name": 3, "arguments": {}}',
        '{"arguments": {}}',
        '{"name": "ping",}',
        '{"name": "ping", "arguments": [1]}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_call_comes_as_text_markers_included(text: str) -> None:
    parts = split(plan("json_tools"), f"before <tool_call>{text}</tool_call> after")[0]
    assert texts(parts, "text") == f"before <tool_call>{text}</tool_call> after"
    assert texts(parts, "warning").startswith("a tool call does not parse and came as text: ")
    assert calls(parts) == []


@pytest.mark.parametrize(
    "broken", ['{"a": x}', '{"a" 1}', '{"a": 01}', '{"a": tru}', "{a: 1}", '{"a": "\\x"}']
)
def test_arguments_that_break_in_the_middle_stand_so_far_and_the_rest_is_text(broken: str) -> None:
    parts = split(plan("json_tools"), f'<tool_call>{{"name": "ping", "arguments": {broken}}}</tool_call>')[0]
    [call, *rest] = parts
    assert call[3] + texts(rest, "text") == f"{broken}}}</tool_call>"
    assert texts(rest, "warning").startswith("the call to ping broke off: ")


def test_after_a_broken_call_others_are_read() -> None:
    parts = split(plan("json_tools"), f"<tool_call>oops</tool_call>{JSON_CALL}")[0]
    assert calls(parts) == [("get_weather", {"city": "Paris"})]
    assert texts(parts, "text") == "<tool_call>oops</tool_call>"


def test_a_call_without_its_end_marker_is_one_where_the_answer_ends() -> None:
    text = JSON_CALL.removesuffix("</tool_call>")
    assert calls(split(plan("json_tools"), text)[0]) == [("get_weather", {"city": "Paris"})]
    assert calls(split(plan("json_tools"), text + "</tool_")[0]) == [("get_weather", {"city": "Paris"})]


def test_text_behind_calls_is_text() -> None:
    parts = split(plan("mistral"), "[TOOL_CALLS]ping[ARGS]{} and then?")[0]
    assert parts == [("call", 0, "ping", "{}"), ("text", "and then?")]


# -- JSON without a marker ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ['{"city": "Paris"}', '{"name": "Ann", "age": 3}', "{", "{}", '{"name": "ping"}']
)
def test_json_that_is_an_answer_is_text_without_a_word(text: str) -> None:
    assert split(plan("llama3"), text)[0] == [("text", text)]


def test_stop_strings_count_in_json_that_is_an_answer() -> None:
    assert split(plan("llama3"), '{"city": "Paris"}', stops=("Par",)) == ([("text", '{"city": "')], "Par")


def test_a_stop_string_before_json_ends_the_answer_however_it_is_cut() -> None:
    text = '\n\n{"name": "ping", "parameters": {}}'
    for pieces in ([text], list(text)):
        assert split(plan("llama3"), pieces, stops=("\n\n",)) == ([], "\n\n")


def test_json_behind_text_is_no_call() -> None:
    text = 'So: {"name": "ping", "parameters": {}}'
    assert split(plan("llama3"), text)[0] == [("text", text)]


def test_json_behind_a_thought_is_a_call() -> None:
    text = '<think>hm</think>\n{"name": "ping", "parameters": {}}'
    assert calls(split(plan("llama3"), text)[0]) == [("ping", {})]


def test_calls_behind_a_python_tag() -> None:
    text = (
        'I look. <|python_tag|>{"name": "ping", "parameters": {}}; {"name": "ping", "parameters": {"a": 1}}'
    )
    parts = split(plan("llama3"), text)[0]
    assert texts(parts, "text") == "I look."
    assert calls(parts) == [("ping", {}), ("ping", {"a": 1})]


# -- formats that are not JSON -----------------------------------------------------------------------


def test_the_schema_types_values_that_are_written_as_text() -> None:
    text = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n"
        "<parameter=days>\n12\n</parameter>\n</function>\n</tool_call>"
    )
    assert calls(split(plan("qwen3_coder"), text)[0]) == [("get_weather", {"city": "12", "days": 12})]


def test_two_functions_in_one_block() -> None:
    one = "<function=ping>\n</function>"
    parts = split(plan("qwen3_coder"), f"<tool_call>\n{one}\n{one}\n</tool_call>")[0]
    assert calls(parts) == [("ping", {}), ("ping", {})]


def test_what_a_parser_would_pass_over_is_not_lost() -> None:
    """mlx-lm's parser takes the whole calls and leaves out the other."""
    good = '<invoke name="ping"></invoke>'
    text = f'<minimax:tool_call>{good}<invoke name="get_weather"><parameter</minimax:tool_call>'
    parts = split(plan("minimax_m2"), text)[0]
    assert texts(parts, "text") == text
    assert "cannot read all of it" in texts(parts, "warning")


@pytest.mark.parametrize(
    ("name", "begun", "why"),
    [
        ("gemma4", "call:f{", "begins more than 64 calls"),
        ("muse_spark", '<atem:invoke name="ping">', "begins more than 64 calls"),
        ("glm47", "<arg_key>a</arg_key><arg_value>", "leaves more than 64 values open"),
    ],
)
def test_a_model_that_begins_without_end_keeps_nobody_waiting(name: str, begun: str, why: str) -> None:
    """mlx-lm's parsers would take minutes for it, on the thread that decodes."""
    text = FORMATS[name].start + begun * 20_000 + FORMATS[name].end
    parts = split(plan(name), [text])[0]
    assert texts(parts, "text") == text
    assert why in texts(parts, "warning")


def test_values_that_json_does_not_have() -> None:
    text = "<|tool_call_start|>[ping(a={1, 2})]<|tool_call_end|>"
    parts = split(plan("pythonic"), text)[0]
    assert texts(parts, "text") == text


def test_nested_values() -> None:
    wanted = ("save", {"tree": {"a": [1, {"b": None}]}})
    offered = [tool("save", tree="object"), NOTHING]
    for form in (FORMATS[name] for name in ("json_tools", "kimi_k3", "qwen3_coder", "glm47", "pythonic")):
        parts, _ = split(plan(form, tools=offered), written(form, [wanted]))
        assert calls(parts) == [wanted], form.name


def test_kimi_k3_writes_arguments_one_by_one_too() -> None:
    def argument(key: str, kind: str, value: str) -> str:
        return f'<|open|>argument key="{key}" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>'

    call = '<|open|>call tool="get_weather" index="1"<|sep|>\n'
    both = argument("city", "string", "Paris") + argument("days", "number", "3")
    closed = "<|close|>call<|sep|>"
    text = f"<|open|>tools<|sep|>{call}{both}{closed}\n{call}{closed}<|close|>tools<|sep|>"
    parts = split(plan("kimi_k3"), text)[0]
    assert calls(parts) == [("get_weather", {"city": "Paris", "days": 3}), ("get_weather", {})]
    assert texts(parts, "text") == ""
