"""Grammars of tool calls, in the format that the model writes them in (`answer.formats`).

What is forced can so be read: the same table makes the readers. Arguments that are written one by one come
in the order of the schema's properties, each at most once, those that are not required perhaps not.

A function with `strict` gets exactly what its schema says, or the request is refused. One without gets
what llguidance can follow of its schema.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from appliance.engine.answer.formats import Argument, CallFormat
from appliance.engine.constraint import bounds, grammars, multiples, references
from appliance.engine.constraint.compiler import Unsupported

_PLAIN = {"type", "properties", "required", "additionalProperties", "title", "description", "$defs"}
_PLAIN |= {"definitions", "$schema", "$id", "$comment"}
_TEXT = {"type", "title", "description", "default", "examples", "$comment"}
_NUMBER = re.compile(r"\{index\}")


@dataclass(frozen=True)
class Function:
    name: str
    parameters: dict[str, Any]
    strict: bool


def functions(tools: list[dict[str, Any]], names: list[str] | None) -> list[Function]:
    """Those that may be called. Raises TooMuch, or Unsupported for schemas that are none."""
    found = []
    for tool in tools:
        told = tool.get("function") or {}
        if names is not None and told.get("name") not in names:
            continue
        parameters = told.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, dict):
            raise Unsupported(f"the parameters of {told.get('name')} are no JSON Schema")
        bounds.parse(json.dumps(parameters))
        found.append(Function(str(told["name"]), parameters, told.get("strict") is True))
    schemas = [function.parameters for function in found]
    bounds.together(schemas)
    multiples.check(schemas, references.target)
    return found


class Rules:
    """Lark rules of the calls of one model, in one answer."""

    def __init__(self, form: CallFormat, specials: dict[str, int]) -> None:
        """specials: tokens that are no text, by their text: a marker may be one."""
        self._form = form
        self._specials = specials
        whole = sorted(map(re.escape, specials), key=len, reverse=True)
        self._special = re.compile("|".join(whole)) if whole else None
        self._rules: list[str] = []

    def required(self, offered: list[Function], *, many: bool) -> str:
        """One call or more, and nothing else but blanks before it."""
        return self._written(f"start: GAP calls\nGAP: {grammars.GAP}", offered, many=many)

    def maybe(
        self, offered: list[Function], *, many: bool, answer: str | None = None, gap: bool = False
    ) -> str:
        """Calls, or an answer, or text before calls. answer: the Lark of it; None: any text.

        gap: blanks may come before calls or such an answer.
        """
        if answer is not None:
            start = f"start: {'GAP ' if gap else ''}(calls | body)\nGAP: {grammars.GAP}\nbody: {answer}"
            return self._written(start, offered, many=many)
        marker = self._form.start
        if not marker:  # a call is JSON from the first character on: then text is what is not
            start = "start: GAP calls | TEXT\nTEXT: /[ \\t\\n]*([^{ \\t\\n](?s:.*))?/\n"
            return self._written(f"{start}GAP: {grammars.GAP}", offered, many=many)
        if self._first(marker)[1] is None:  # made of text: it begins a call wherever it stands
            start = f"start: TEXT | head calls\nhead[lazy]: /(?s:.*)/ {_text(marker)}\nTEXT: /(?s:.*)/"
            return self._written(start, offered, many=many, open="")
        return self._written("start: TEXT | TEXT calls\nTEXT: /(?s:.*)/", offered, many=many)

    def _written(self, start: str, offered: list[Function], *, many: bool, open: str | None = None) -> str:
        form = self._form
        opened = self._literal(form.start) if open is None else open
        if not offered:
            raise Unsupported("there is no function that may be called")
        again = f" ({self._literal(form.separator)} call)*" if many else ""
        self._rules = [start, f"calls: {opened} call{again} {self._literal(form.end)}"]
        self._rules.append("call: " + " | ".join(f"call_{n}" for n in range(len(offered))))
        for number, function in enumerate(offered):
            self._call(number, function, many=many)
        return "\n".join(self._rules) + "\n"

    def _call(self, number: int, function: Function, *, many: bool) -> None:
        form = self._form
        head, found, tail = form.between.partition("{index}")
        index = (" /[0-9]{1,2}/ " if many else ' "0" ') if found else ""
        opened = f"{self._literal(form.before + function.name + head)}{index}{self._literal(tail)}"
        if form.argument is None:
            schema = grammars.schema(_object(function), lenient=not function.strict)
            middle = f"%json {json.dumps(schema, ensure_ascii=False)}"
            self._rules.append(f"call_{number}: {opened} args_{number} {self._literal(form.after)}")
            self._rules.append(f"args_{number}: {middle}")
        else:
            self._rules.append(f"call_{number}: {opened} first_{number}_0 {self._literal(form.after)}")
            self._pairs(number, function, form.argument)

    # -- arguments one by one ------------------------------------------------------------------------

    def _pairs(self, number: int, function: Function, form: Argument) -> None:
        """`first_n_k`: what follows where none of the first k arguments was written; `more_n_k`: one was."""
        parameters = function.parameters
        if function.strict and (strange := sorted(parameters.keys() - _PLAIN)):
            raise Unsupported(
                f"the arguments of {function.name} are written one by one: {strange[0]} is not known"
            )
        properties = parameters.get("properties") or {}
        required = set(parameters.get("required") or ())
        if function.strict and (unknown := sorted(required - properties.keys())):
            raise Unsupported(f"{function.name} requires {unknown[0]}, which its properties do not have")
        separator = self._literal(form.separator)
        last = len(properties)
        for at, (name, schema) in enumerate(properties.items()):
            here, then = f"{number}_{at}", f"{number}_{at + 1}"
            opened = self._literal(form.before + name + form.between)
            self._rules.append(f"pair_{here}: {opened} {self._value(function, name, schema, form, here)}")
            skip = "" if name in required else f" | first_{then}"
            self._rules.append(f"first_{here}: pair_{here} more_{then}{skip}")
            skip = "" if name in required else f" | more_{then}"
            self._rules.append(f"more_{here}: {separator} pair_{here} more_{then}{skip}")
        self._rules += [f'first_{number}_{last}: ""', f'more_{number}_{last}: ""']

    def _value(self, function: Function, name: str, schema: Any, form: Argument, here: str) -> str:
        """With what closes the argument behind it."""
        if not (isinstance(schema, dict) and schema.get("type") == "string" and form.open is not None):
            if isinstance(schema, dict):
                kept = ("$defs", "definitions")
                schema = {**{k: function.parameters[k] for k in kept if k in function.parameters}, **schema}
            made = grammars.schema(schema, lenient=not function.strict)
            return f"%json {json.dumps(made, ensure_ascii=False)} {self._literal(form.after)}"
        closing = (form.close or "") + form.after
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            texts = [value for value in values if isinstance(value, str)]
            choice = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
            return f"{self._literal(form.open)} ({choice}) {self._literal(closing)}"
        if function.strict and (strange := sorted(schema.keys() - _TEXT)):
            raise Unsupported(
                f"this model writes {name} of {function.name} as plain text, which cannot be held to "
                f"{strange[0]}"
            )
        before, special = self._first(closing)
        if special is None:
            self._rules.append(f"text_{here}[lazy]: /(?s:.*)/ {_text(closing)}")
            return f"{self._literal(form.open)} text_{here}"
        self._rules.append(f"TEXT_{here}: /(?s:.*)/")
        if before.strip():
            raise Unsupported("this model's format of tool calls cannot be forced")
        return f"{self._literal(form.open)} TEXT_{here} {self._literal(closing[len(before) :])}"

    # -- markers -------------------------------------------------------------------------------------

    def _first(self, text: str) -> tuple[str, str | None]:
        """The text before the first special token in it, and that token."""
        found = self._special.search(text) if self._special is not None else None
        return (text, None) if found is None else (text[: found.start()], found.group())

    def _literal(self, text: str) -> str:
        """Exactly this text, in Lark; special tokens in it as tokens."""
        parts = []
        while text:
            before, special = self._first(text)
            parts.append(_text(before))
            if special is None:
                break
            parts.append(f"<[{self._specials[special]}]>")
            text = text[len(before) + len(special) :]
        return " ".join(part for part in parts if part)


def _text(text: str) -> str:
    """Exactly this text, in Lark, the white space it begins with by itself.

    llguidance's lexer takes the longest word and does not go back: where "\\n" may come and "\\n<arg" too, it
    would never see the first of them before a "<".
    """
    inner = text.lstrip()
    parts = (text[: len(text) - len(inner)], inner)
    return " ".join(json.dumps(part, ensure_ascii=False) for part in parts if part)


def _object(function: Function) -> dict[str, Any]:
    """Arguments are an object, also where the schema does not say so."""
    return {"type": "object", **function.parameters}
