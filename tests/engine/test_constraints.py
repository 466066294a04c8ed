"""What tokens must follow, in a real engine: alone and beside others, and where it cannot be followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from appliance import wire
from appliance.engine import load, weights
from appliance.engine.answer.formats import FORMATS
from appliance.engine.constraint import bounds, compiler, grammars
from appliance.engine.constraint.compiler import Compiler
from appliance.engine.constraint.plan import Guiding
from tests.engine.client import Engine, Reply
from tests.engine.stand import Stand, job

DEMO = Path(__file__).parents[2] / "examples" / "models" / "lmx-demo-mini"
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SET: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_light",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ["hall", "attic"]},
                "level": {"type": "integer", "minimum": 0, "maximum": 99},
                "warm": {"type": "boolean"},
            },
            "required": ["room", "level"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
HELLO = [{"role": "user", "content": "Hello"}]
END, TOOL_CALL = 2, 1022  # tokens of the demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    running = Engine(tmp_path_factory.mktemp("logs") / "engine.log")
    try:
        running.load(DEMO)
        running.send(wire.Configure(context=2048, concurrency=16))
        yield running
    finally:
        running.close()


def schema(found: Any) -> wire.Grammar:
    return wire.Grammar("json_schema", json.dumps(found))


def calls(reply: Reply, *, whole: bool = True) -> list[tuple[str, Any]]:
    """whole: all of them; else the last may be cut off, and is left out."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for row in reply.rows:
        for part in row.more.calls if row.more is not None else ():
            names.setdefault(part.index, part.name or "")
            arguments[part.index] = arguments.get(part.index, "") + part.arguments
    found = sorted(names) if whole else sorted(names)[:-1]
    return [(names[index], json.loads(arguments[index])) for index in found]


def warnings(reply: Reply) -> list[str]:
    return [row.more.warning for row in reply.rows if row.more is not None and row.more.warning]


# -- in a batch ------------------------------------------------------------------------------------------


def test_rows_with_and_without_a_grammar_say_the_same_together_as_alone(demo: Engine) -> None:
    asked: list[dict[str, Any]] = [
        {"prompt": "Hello", "max_tokens": 60, "grammar": schema(PERSON)},
        {"prompt": "One", "max_tokens": 30, "ignore_eos": True},
        {"prompt": "Two", "max_tokens": 40, "grammar": wire.Grammar("regex", "[a-z ]{12}[0-9]{3}")},
        {"prompt": "A lamp", "max_tokens": 25, "ignore_eos": True, "presence_penalty": 1.0},
        {"prompt": "Three", "max_tokens": 60, "grammar": schema(PERSON), "frequency_penalty": 0.5},
        {"prompt": "Four", "max_tokens": 60, "grammar": schema(PERSON), "temperature": 1.0, "seed": 4},
        {"prompt": "Five", "max_tokens": 20, "ignore_eos": True, "temperature": 1.0, "seed": 5},
    ]
    alone = [demo.ask(**one) for one in asked]
    together = [demo.submit(**one) for one in asked]
    demo.finish(*together)
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert [reply.finish for reply in together] == [reply.finish for reply in alone]
    for index in (0, 4, 5):
        assert alone[index].finish == "stop"
        jsonschema.validate(json.loads(alone[index].text), PERSON)


def test_a_grammar_that_cannot_go_on_fails_its_own_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance gives up in the middle where a grammar is too much for its limits."""
    order = wire.Load("test", str(DEMO))
    model = load.load(order, weights.check(order), lambda done, total: None)
    following = Compiler(model.tokenizer, model.vocabulary, model.end_tokens)
    good = following.compile(grammars.answer(schema(PERSON), gap=False))
    monkeypatch.setitem(compiler.LIMITS, "max_items_in_row", 50)
    wide = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(50)}}
    bad = following.compile(grammars.answer(schema(wide), gap=False))
    stand = Stand(model)
    stand.run(
        job(1, tokens=30, guiding=Guiding(following, bad)),
        job(2, tokens=200, guiding=Guiding(following, good)),
        job(3, tokens=20),
    )
    last = {rid: rows[-1] for rid, rows in stand.out.rows.items()}
    assert last[1].finish == "error"
    assert "its grammar cannot be followed any further" in str(last[1].message)
    assert last[1].code == "unsupported_grammar"
    assert (last[2].finish, last[3].finish, last[3].tokens) == ("stop", "length", 20)


def test_a_cached_prompt_gives_the_same_answer(demo: Engine) -> None:
    prompt = "Once upon a time " * 90
    first = demo.ask(prompt, max_tokens=120, grammar=schema(PERSON))
    again = demo.ask(prompt, max_tokens=120, grammar=schema(PERSON))
    assert again.accepted is not None
    assert again.text == first.text
    jsonschema.validate(json.loads(again.text), PERSON)


# -- what it says ----------------------------------------------------------------------------------------


def test_kinds_of_grammar(demo: Engine) -> None:
    thing = demo.ask("Hello", max_tokens=90, grammar=wire.Grammar("json_object"), temperature=1.0, seed=3)
    assert thing.finish == "length" or isinstance(json.loads(thing.text), dict)
    assert thing.text.startswith("{")
    word = demo.ask("Hello", max_tokens=20, grammar=wire.Grammar("regex", "(yes|no)!"))
    assert (word.text, word.finish) in (("yes!", "stop"), ("no!", "stop"))
    lark = wire.Grammar("lark", 'start: "<" WORD ">"\nWORD: /[a-c]{2,3}/')
    tagged = demo.ask("Hello", max_tokens=20, grammar=lark, temperature=1.0, seed=1)
    assert tagged.text[0] + tagged.text[-1] == "<>"
    assert set(tagged.text[1:-1]) <= set("abc")


@pytest.mark.parametrize("options", ["", '%llguidance {"no_forcing": false}\n'])
def test_a_grammar_with_no_way_out_is_looked_through_to_no_end(demo: Engine, options: str) -> None:
    """The first A takes every a: the second one never comes."""
    endless = wire.Grammar("lark", f'{options}start: "b" A A\nA: /a+/')
    reply = demo.ask("Hello", max_tokens=5, grammar=endless)
    assert (reply.text.rstrip("a"), reply.finish) == ("b", "length")


def test_an_answer_that_is_complete_ends_even_where_the_end_of_the_text_is_ignored(demo: Engine) -> None:
    reply = demo.ask("Hello", max_tokens=20, grammar=wire.Grammar("regex", "abc"), ignore_eos=True)
    assert (reply.text, reply.finish) == ("abc", "stop")


def test_an_answer_that_could_go_on_is_cut_by_max_tokens(demo: Engine) -> None:
    reply = demo.ask("Hello", max_tokens=7, grammar=wire.Grammar("regex", "[ab]{200}"))
    assert reply.finish == "length"
    assert reply.rows[-1].tokens == 7


@pytest.mark.parametrize("what", ["by property", "by type", "by reference"])
def test_one_of_options_that_exclude_each_other_is_followed(demo: Engine, what: str) -> None:
    def shape(kind: str) -> dict[str, Any]:
        properties = {"kind": {"const": kind}}
        return {
            "type": "object",
            "properties": properties,
            "required": ["kind"],
            "additionalProperties": False,
        }

    options: list[Any] = {
        "by property": [shape("a"), shape("b")],
        "by type": [{"type": "boolean"}, {"type": "null"}],
        "by reference": [{"$ref": "#/$defs/a"}, {"type": "array", "maxItems": 0}],
    }[what]
    found = {"oneOf": options, "$defs": {"a": shape("a")}}
    reply = demo.ask("Hello", max_tokens=200, grammar=schema(found), temperature=1.0, seed=2)
    assert reply.finish == "stop", reply
    jsonschema.validate(json.loads(reply.text), found)


# -- calls -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_required_call_is_one_in_every_format(demo: Engine, name: str) -> None:
    demo.send(wire.Configure(context=2048, concurrency=16, tool_parser=name))
    try:
        replies = [
            demo.submit(
                messages=HELLO,
                tools=[SET],
                tool_choice="required",
                parallel_tool_calls=False,
                max_tokens=300,
                temperature=1.0,
                seed=seed,
            )
            for seed in range(4)
        ]
        demo.finish(*replies)
    finally:
        demo.send(wire.Configure(context=2048, concurrency=16))
    for reply in replies:
        assert (reply.finish, warnings(reply), reply.text.strip()) == ("stop", [], ""), reply
        ((called, arguments),) = calls(reply)
        assert called == "set_light"
        jsonschema.validate(arguments, SET["function"]["parameters"])


def test_the_named_tool_is_called_and_no_other(demo: Engine) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "tools": [SET, CLOCK], "max_tokens": 300, "temperature": 1.0}
    for seed in range(3):
        reply = demo.ask(tool_choice="required", tool_names=["set_light"], seed=seed, **asked)
        assert {called for called, _ in calls(reply)} == {"set_light"}


def test_several_calls_may_be_required(demo: Engine) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "tools": [SET], "tool_choice": "required", "max_tokens": 200}
    reply = demo.ask(logit_bias={END: -100.0}, **asked)  # it never ends by itself
    whole = calls(reply, whole=False)
    assert len(whole) > 1
    for _, arguments in whole:
        jsonschema.validate(arguments, SET["function"]["parameters"])


def test_a_strict_function_is_followed_once_a_call_begins(demo: Engine) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "max_tokens": 300, "parallel_tool_calls": False, "seed": 1}
    loose = {"type": "function", "function": {**SET["function"], "strict": False}}
    strict = demo.ask(tools=[SET], logit_bias={TOOL_CALL: 100.0}, temperature=1.0, **asked)
    ((called, arguments),) = calls(strict)
    assert called == "set_light"
    jsonschema.validate(arguments, SET["function"]["parameters"])
    # and where none begins, text is as free as without it
    plain = demo.ask(tools=[loose], logit_bias={TOOL_CALL: -100.0}, **asked)
    held = demo.ask(tools=[SET], logit_bias={TOOL_CALL: -100.0}, **asked)
    assert plain.text
    assert (held.text, held.finish) == (plain.text, plain.finish)


def test_calls_or_an_answer_that_follows_its_schema(demo: Engine) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "tools": [SET], "grammar": schema(PERSON), "max_tokens": 200}
    answer = demo.ask(logit_bias={TOOL_CALL: -100.0}, **asked)
    jsonschema.validate(json.loads(answer.text), PERSON)
    call = demo.ask(logit_bias={TOOL_CALL: 100.0}, parallel_tool_calls=False, **asked)
    assert [name for name, _ in calls(call)] == ["set_light"]


# -- what is refused -------------------------------------------------------------------------------------

NESTED: dict[str, Any] = {}
for _ in range(bounds.DEPTH + 2):
    NESTED = {"anyOf": [NESTED]}


def chain(length: int) -> dict[str, Any]:
    """Objects in each other, all by reference."""
    kinds: dict[str, Any] = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(length)
    }
    return {"$defs": {**kinds, f"d{length}": {}}, "$ref": "#/$defs/d0"}


def test_what_is_deep_but_within_the_bounds_is_followed(demo: Engine) -> None:
    reply = demo.ask("Hello", max_tokens=40, grammar=schema(chain(160)))
    assert reply.refused is None, reply
    rules = "start: x0\n" + "".join(f'x{n}: x{n + 1} "b" | "b"\n' for n in range(990)) + 'x990: "b"'
    reply = demo.ask("Hello", max_tokens=20, grammar=wire.Grammar("lark", rules))
    assert set(reply.text) == {"b"}


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (schema({"type": "object", "not": {}}), 'Unimplemented keys: ["not"]'),
        (schema({"uniqueItems": True, "type": "array"}), "uniqueItems"),
        (schema({"type": "strin"}), "strin"),
        (schema({"x-guidance": {"lenient": True}}), "x-guidance"),
        (schema({"$ref": "https://example.com/a.json"}), "example.com"),
        (schema({"$ref": "file:///etc/passwd"}), "file:///etc/passwd"),
        (schema({"$ref": "#"}), "requires itself"),
        (schema({"oneOf": [{"type": "string"}, {"maxLength": 3}]}), "oneOf"),
        (schema([]), "a schema is an object"),
        (wire.Grammar("json_schema", "{"), "is not JSON"),
        (wire.Grammar("json_schema", "[" * 100_000), "nested more than"),
        (schema(NESTED), "nested more than"),
        (schema({"properties": {f"p{n}": {} for n in range(1001)}}), "more than 1000 properties"),
        (schema({"enum": [f"v{n}" for n in range(20_000)]}), "more than 8000 parts"),
        (schema({"description": "x" * 300_000}), "longer than 256 KiB"),
        (schema({"type": "string", "pattern": "^(a{1000}){1000}$"}), "counts in a regular expression"),
        (wire.Grammar("regex", "(a{1000}){1000}"), "counts in a regular expression"),
        (schema(chain(900)), "more than 500 levels deep"),
        (schema({"allOf": [{"pattern": f"a{n}"} for n in range(20)]}), "more than 12 parts"),
        (schema({"type": "integer", "multipleOf": 99_999_989}), "multipleOf in it, taken together"),
        (wire.Grammar("lark", "".join(f"x{n}: x{n + 1}\n" for n in range(3000))), "more than 1000 rules"),
        (
            wire.Grammar("lark", "start: A\nA: " + " & ".join(f"/.*{n}.*/" for n in range(20))),
            "hold together",
        ),
        (wire.Grammar("lark", "start: %json {}"), "%json"),
        (wire.Grammar("lark", "start: word\nword[temperature=0.5]: /.*/"), "temperature"),
        (wire.Grammar("regex", "("), "regex"),
        (wire.Grammar("lark", "start: nothing"), "nothing"),
        (wire.Grammar("lark", '%import "/etc/passwd"\nstart: "a"'), "Expected name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_enforced_is_refused(demo: Engine, grammar: wire.Grammar, why: str) -> None:
    reply = demo.ask("Hello", max_tokens=5, grammar=grammar)
    assert reply.refused is not None, reply
    assert (reply.refused.code, reply.refused.param) == ("unsupported_grammar", "response_format")
    assert why in reply.refused.message


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        ({"tool_choice": "required"}, "invalid_request", "there are no tools"),
        ({"tools": [CLOCK], "tool_names": ["watch"]}, "invalid_request", "'watch'"),
        ({"thinking_budget": -1}, "invalid_request", "thinking_budget must be"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    demo: Engine, more: dict[str, Any], code: str, why: str
) -> None:
    reply = demo.ask(messages=HELLO, max_tokens=5, **more)
    assert reply.refused is not None, reply
    assert reply.refused.code == code
    assert why in reply.refused.message


def test_a_continued_answer_cannot_be_held_to_a_grammar(demo: Engine) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "{"}]
    reply = demo.ask(messages=begun, continue_final=True, max_tokens=5, grammar=schema(PERSON))
    assert reply.refused is not None
    assert reply.refused.code == "not_supported"


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        ("abc", 1),
        ("a{3}", 3),
        ("(a{3}b{2}){4}", 12),
        ("(a{3}|(b{5}c){6}){7}", 210),
        (r"\{9\}[{9}]", 1),
        (r"[\]{7}]x{2}", 2),
        ("a{2,30}", 30),
        ("a{2,}", 2),
        ("a{9}{9}", 81),
        ("x{99", 1),
        (")a{2}", 2),
    ],
)
def test_counts_in_counts_multiply(pattern: str, most: int) -> None:
    assert bounds.repeats(pattern) == most
