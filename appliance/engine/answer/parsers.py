"""Which format a model writes its tool calls in, and mlx-lm's parsers of those that are not JSON."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from typing import Any

from appliance.engine.answer.formats import FORMATS, MISTRAL_LIST, NAMES, CallFormat
from appliance.engine.answer.writing import Broken

# What begins one call. mlx-lm's parsers pass over what they cannot read; here nothing may get lost.
_BEGINS = {"minimax_m2": "<invoke name=", "muse_spark": "<atem:invoke"}
# Their time grows with what is begun and left open, times the length: 40 kB of `call:f{` took a minute.
_OPENED = {**_BEGINS, "gemma4": "call:", "kimi_k3": "<|open|>call"}
_VALUES = {
    "glm47": ("<arg_value>", "</arg_value>"),
    "laguna": ("<arg_value>", "</arg_value>"),
    "longcat": ("<longcat_arg_value>", "</longcat_arg_value>"),
}
MOST = 64  # calls in one block, and values left open
_LLAMA = (
    '"parameters": ',
    '{"name": ',
    "ipython",
)  # what templates of Llama 3 say of tools and their results
# longcat's parser fails where a call has no arguments.
_NAME_ALONE = re.compile(r"\s*([\w.-]+)\s*")
_BETWEEN_FUNCTIONS = re.compile(r"(?<=</function>)\s*(?=<function=)")


class UnknownParser(ValueError):
    """A name that is not in the table."""


def find(name: str, tokenizer: Any) -> CallFormat | None:
    """The format of that name; of `auto`, the one that the tokenizer's chat template asks for.

    tokenizer: mlx-lm's TokenizerWrapper, which has looked already. None: its template names no format, or
    there is no template. Raises UnknownParser.
    """
    template = tokenizer.chat_template
    found = _named(name, tokenizer, template)
    if found is not None and found.name == "mistral" and "[ARGS]" not in str(template):
        return MISTRAL_LIST
    return found


def _named(name: str, tokenizer: Any, template: Any) -> CallFormat | None:
    if name != "auto":
        if name not in FORMATS:
            raise UnknownParser(f"tool_parser {name!r} is not known; there are auto, {', '.join(NAMES)}")
        return FORMATS[name]
    if tokenizer.tool_parser is not None:
        module = tokenizer.tool_parser.__module__.rpartition(".")[2]
        named = tokenizer.init_kwargs.get("tool_parser_type", module)  # laguna's parser is glm47's
        if named in FORMATS:
            return FORMATS[named]
    if isinstance(template, str) and all(mark in template for mark in _LLAMA):
        return FORMATS["llama3"]
    return None


def parser(form: CallFormat, tools: list[dict[str, Any]]) -> Callable[[str], list[tuple[str, str]]]:
    """A function from the text between the markers to names and arguments as JSON. It raises Broken."""
    read = importlib.import_module(f"mlx_lm.tool_parsers.{form.name}").parse_tool_call
    begins, opened, values = _BEGINS.get(form.name), _OPENED.get(form.name), _VALUES.get(form.name)

    def parse(text: str) -> list[tuple[str, str]]:
        text = text.strip()
        if opened is not None and text.count(opened) > MOST:
            raise Broken(f"it begins more than {MOST} calls")
        if values is not None and text.count(values[0]) > text.count(values[1]) + MOST:
            raise Broken(f"it leaves more than {MOST} values open")
        pieces = _BETWEEN_FUNCTIONS.split(text) if form.name == "qwen3_coder" else [text]
        calls: list[dict[str, Any]] = []
        for piece in pieces:
            if form.name == "longcat" and (alone := _NAME_ALONE.fullmatch(piece)):
                calls.append({"name": alone[1], "arguments": {}})
                continue
            try:
                found = read(piece, tools)
            except Exception as error:
                raise Broken(f"{form.name} cannot read it: {type(error).__name__}") from error
            calls += found if isinstance(found, list) else [found]
        if not all(isinstance(call, dict) for call in calls):
            raise Broken(f"{form.name} finds no call in it")
        if not calls or (begins is not None and text.count(begins) != len(calls)):
            raise Broken(f"{form.name} cannot read all of it")
        return [(str(call.get("name")), arguments(call.get("arguments", {}))) for call in calls]

    return parse


def arguments(found: Any) -> str:
    """What a parser found, as JSON. Raises Broken."""
    if not isinstance(found, dict):
        raise Broken("its arguments are not an object")
    try:
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        return text if _sendable(text) else json.dumps(found, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise Broken("its arguments cannot be written as JSON") from None


def _sendable(text: str) -> bool:
    """Half a surrogate pair is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
