"""What an answer must look like, as llguidance takes it.

JSON is written with white space of one space, or of a line break and an indent, between its parts: a small
model would otherwise fill its answer with blanks. Keywords of JSON Schema that llguidance cannot follow are
refused; nothing is skipped (its `lenient` is off, and a schema cannot turn it on).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from appliance.engine.constraint import bounds, multiples, references, wording
from appliance.engine.constraint.compiler import Unsupported
from appliance.wire import Grammar

SPACE = r" |\n[ \t]{0,32}"
OPTIONS: dict[str, Any] = {"whitespace_pattern": SPACE, "whitespace_flexible": True, "lenient": False}
# Behind a thought and before a call, models leave a line or two, which the client does not get to see.
GAP = "/[ \\t\\n]{0,4}/"
# Where only one text can follow, llguidance looks ahead to its end. `A A`, with A: /a+/, has none: the first
# A takes every a there is, and it would look for ever.
UNFORCED = '%llguidance {"no_forcing": true}\n'
# What a rule of llguidance may say of sampling, which is not the grammar's here.
_SAMPLING = re.compile(r"^[ \t]*\w+\[[^\]\n]*\btemperature\b", re.MULTILINE)


def schema(found: Any, *, lenient: bool = False) -> Any:
    """A schema with our options in it, where llguidance looks for them. Raises Unsupported.

    lenient: what cannot be followed is left out.
    """
    if isinstance(found, bool):
        found = {} if found else {"not": {}}
    if not isinstance(found, dict):
        raise Unsupported(f"a schema is an object, not {type(found).__name__}")
    if "x-guidance" in found:
        raise Unsupported("x-guidance in a schema is not for clients to set")
    references.check(found)
    multiples.check([found], references.target)
    return {**wording.rewritten(found), "x-guidance": {**OPTIONS, "lenient": lenient}}


def check_words(grammar: Grammar, specials: Iterable[str]) -> None:
    """Raises Unsupported where text that must be written would be read as one of the model's special tokens.

    llguidance lets such a token begin the text, and then does not take it.
    """
    words = [grammar.text] if grammar.kind == "regex" else []
    if grammar.kind == "json_schema":
        for _, node in bounds.walk(bounds.parse(grammar.text)):
            if isinstance(node, dict):
                said = [node.get("const"), node.get("enum"), list(node.get("properties") or ())]
                words.append(json.dumps([*said, node.get("pattern")], ensure_ascii=False))
    found = next(
        (special for special in specials for word in words if len(special) > 2 and special in word), None
    )
    if found is not None:
        raise Unsupported(f"{found} is a token of its own for this model, and cannot be written as text")


def lark(grammar: Grammar) -> str:
    """The body of a Lark rule that is the answer, or `@answer`; see `whole`. Raises Unsupported, TooMuch."""
    if grammar.kind == "json_object":
        return f"%json {json.dumps(schema({'type': 'object'}))}"
    if grammar.kind == "json_schema":
        try:
            found = bounds.parse(grammar.text)
        except json.JSONDecodeError as error:
            raise Unsupported(f"the schema is not JSON: {error}") from None
        return f"%json {json.dumps(schema(found), ensure_ascii=False)}"
    if grammar.kind == "regex":
        from llguidance._lib import regex_to_lark

        bounds.regex(grammar.text)
        return f"/{regex_to_lark(grammar.text, 'd')}/"
    bounds.lark(grammar.text)
    if _SAMPLING.search(grammar.text):
        raise Unsupported("a rule cannot set the temperature; the request can")
    return "@answer"


def whole(rules: str, grammar: Grammar | None) -> str:
    """Lark rules with a `start`, which may name @answer, in llguidance's own form."""
    parts = [{"name": "main", "lark_grammar": rules}]
    if grammar is not None and grammar.kind == "lark":
        parts[0]["lark_grammar"] = UNFORCED + rules
        parts.append({"name": "answer", "lark_grammar": grammar.text})
    return json.dumps({"grammars": parts}, ensure_ascii=False)


def answer(grammar: Grammar, *, gap: bool) -> str:
    """An answer that is this and nothing else. gap: blanks may come before it."""
    return whole(f"start: {'GAP ' if gap else ''}body\nbody: {lark(grammar)}\nGAP: {GAP}\n", grammar)
