"""Tool calls that are forced are what the model's own format says, and what its schema says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import AutoTokenizer

from appliance.engine.answer.formats import FORMATS, CallFormat
from appliance.engine.constraint import calls, grammars
from appliance.engine.constraint.bounds import TooMuch
from appliance.engine.constraint.compiler import Compiler, Unsupported
from tests.engine.answers import written

DEMO = Path(__file__).parents[2] / "examples" / "models" / "lmx-demo-mini"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "where": {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "required": ["x"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
            "$defs": {"n": {"type": "number"}},
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
MARIENBAD = {"city": 'Mari"en < bad\n', "unit": "kelvin"}
FULL = {"city": "Ulm", "days": 3, "unit": "celsius", "where": {"x": 1.5}}


def _markers(form: CallFormat) -> list[str]:
    """Such as are tokens of their own, in models of this kind."""
    if form.name == "kimi_k3":
        return ["<|open|>", "<|close|>", "<|sep|>"]
    pair = form.argument
    texts = [form.start, form.end, *([] if pair is None else [pair.open or ""])]
    return [text for text in texts if text.startswith(("<", "["))]


@pytest.fixture(scope="module")
def compilers() -> dict[str, Compiler]:
    """For each format one with its markers as text, and one with them as special tokens."""
    plain = AutoTokenizer.from_pretrained(DEMO)
    made = {}
    for form in FORMATS.values():
        special = copy.deepcopy(plain)
        special.add_special_tokens({"additional_special_tokens": _markers(form)})
        for kind, tokenizer in (("text", plain), ("special", special)):
            end = frozenset({plain.eos_token_id})
            made[f"{form.name} {kind}"] = Compiler(TokenizerWrapper(tokenizer), len(tokenizer), end)
    return made


def allows(compiler: Compiler, grammar: str, text: str) -> bool:
    """Whether exactly this text may come, and the end of the text behind it."""
    matcher = compiler.compile(grammar).deep_copy()
    tokens = compiler.ll.tokenize_str(text, parse_special=True)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


KINDS = [f"{name} {kind}" for name in FORMATS for kind in ("text", "special")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_required_call_is_one_that_the_schema_allows(compilers: dict[str, Compiler], kind: str) -> None:
    compiler, form = compilers[kind], FORMATS[kind.split()[0]]
    rules = calls.Rules(form, compiler.specials)
    offered = calls.functions([WEATHER, CLOCK], None)
    one = grammars.whole(rules.required(offered, many=False), None)
    several = grammars.whole(rules.required(offered, many=True), None)
    given = MARIENBAD
    for made in ([("get_weather", given)], [("get_weather", FULL)], [("clock", {})]):
        assert allows(compiler, one, written(form, made)), made
        assert allows(compiler, several, "\n\n" + written(form, made)), made
    both = [("get_weather", FULL), ("clock", {}), ("get_weather", given)]
    assert allows(compiler, several, written(form, both))
    assert not allows(compiler, one, written(form, both))
    for wrong in (
        "Hello",
        "",
        written(form, [("get_weather", {"city": "Ulm"})]),  # one is missing
        written(form, [("get_weather", {"city": "Ulm", "unit": "furlong"})]),
        written(form, [("get_weather", {"city": "Ulm", "days": "three", "unit": "kelvin"})]),
        written(form, [("get_whether", FULL)]),
        written(form, [("clock", {})]) + "and so on",
    ):
        assert not allows(compiler, several, wrong), wrong


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_may_come_leave_all_other_text_free(compilers: dict[str, Compiler], kind: str) -> None:
    compiler, form = compilers[kind], FORMATS[kind.split()[0]]
    rules = calls.Rules(form, compiler.specials)
    offered = calls.functions([WEATHER, CLOCK], ["get_weather"])
    grammar = grammars.whole(rules.maybe(offered, many=True), None)
    for text in ("Hello <there> you\n", "", "It is [1, 2] in {x}."):
        assert allows(compiler, grammar, text), text
    assert allows(compiler, grammar, written(form, [("get_weather", FULL)]))
    if form.start:
        assert allows(compiler, grammar, "I will look.\n" + written(form, [("get_weather", FULL)]))
    assert not allows(compiler, grammar, written(form, [("clock", {})]))
    assert not allows(compiler, grammar, written(form, [("get_weather", {"city": "Ulm"})]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_may_be_calls_or_what_its_grammar_says(compilers: dict[str, Compiler], kind: str) -> None:
    compiler, form = compilers[kind], FORMATS[kind.split()[0]]
    rules = calls.Rules(form, compiler.specials)
    body = grammars.lark(grammars.Grammar("json_schema", '{"type": "array", "items": {"type": "integer"}}'))
    grammar = grammars.whole(rules.maybe(calls.functions([CLOCK], None), many=True, answer=body), None)
    assert allows(compiler, grammar, "[1, 2]")
    assert allows(compiler, grammar, written(form, [("clock", {})]))
    assert not allows(compiler, grammar, "one, two")


def test_plain_text_cannot_be_held_to_a_pattern() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    compiler = Compiler(TokenizerWrapper(tokenizer), len(tokenizer), frozenset({tokenizer.eos_token_id}))
    schema = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}$"}}}
    offered = [calls.Function("look", schema, strict=True)]
    for name, form in FORMATS.items():
        rules = calls.Rules(form, compiler.specials)
        if form.argument is None or form.argument.open is None:
            rules.required(offered, many=True)
            continue
        with pytest.raises(Unsupported, match="code of look as plain text"):
            rules.required(offered, many=True)
        loose = [calls.Function("look", schema, strict=False)]
        assert allows(
            compiler,
            grammars.whole(rules.required(loose, many=True), None),
            written(form, [("look", {"code": "anything"})]),
        ), name


@pytest.mark.parametrize(
    ("tools", "properties", "why"),
    [(8, 999, ""), (9, 999, "too many properties together"), (250, 80, "more than 40000 parts")],
)
def test_the_schemas_of_all_tools_are_bounded_together(tools: int, properties: int, why: str) -> None:
    parameters = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(properties)}}
    offered = [{"function": {"name": f"f{n}", "parameters": parameters}} for n in range(tools)]
    if not why:
        assert len(calls.functions(offered, None)) == tools
        return
    with pytest.raises(TooMuch, match=why):
        calls.functions(offered, None)
    assert len(calls.functions(offered, ["f0"])) == 1  # those that cannot be called do not count


def test_a_grammar_that_is_too_large_for_llguidance_is_called_so(compilers: dict[str, Compiler]) -> None:
    compiler = compilers["json_tools text"]
    rules = "\n".join(f"x{n}: /a/? /b/?" for n in range(20_000))
    with pytest.raises(Unsupported, match=r"^it is too large$"):
        compiler.compile(
            grammars.whole(f"start: {' | '.join(f'x{n}' for n in range(20_000))}\n{rules}\n", None)
        )
