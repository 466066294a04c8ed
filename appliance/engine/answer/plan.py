"""What to look for in one answer: known before it begins, shared by nothing that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from appliance.engine.answer import reading
from appliance.engine.answer.formats import FORMATS, CallFormat
from appliance.engine.answer.parsers import parser
from appliance.engine.answer.reading import Reader
from appliance.engine.answer.writing import Writer

Mode = Literal["content", "reasoning", "header", "call"]
Edges = dict[Mode, tuple[tuple[str, Mode], ...]]
_MODES: dict[str, Mode] = {"normal": "content", "reasoning": "reasoning", "header": "header", "tool": "call"}
PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True)
class Tools:
    """The calls that an answer may have."""

    form: CallFormat
    offered: frozenset[str]
    single: bool
    open: Callable[[Writer], Reader]  # a reader that begins behind the start marker


@dataclass(frozen=True)
class Plan:
    """edges: in which mode which marker leads where. tools None: calls are text."""

    edges: Edges = field(default_factory=dict)
    initial: Mode = "content"
    tools: Tools | None = None

    @property
    def plain(self) -> bool:
        """There is nothing to look for."""
        return not self.edges and self.tools is None


PLAIN = Plan()


def tools(form: CallFormat, offered: list[dict[str, Any]], names: list[str] | None, single: bool) -> Tools:
    """offered: the request's tools, whose schemas type the arguments; names: only these may be called."""
    known = {str(tool["function"]["name"]) for tool in offered}
    known = known if names is None else known & set(names)
    return Tools(form, frozenset(known), single, opener(form, offered))


def opener(form: CallFormat, offered: list[dict[str, Any]]) -> Callable[[Writer], Reader]:
    if form.name == "llama3":
        return reading.objects
    if form.name == "mistral":
        return partial(reading.mistral, marker=marker(form))
    if form.name == "kimi_k2":
        return partial(reading.kimi_k2, end=form.end)
    if form.name == "json_tools":
        return partial(reading.objects, end=form.end)
    read = reading.kimi_k3 if form.name == "kimi_k3" else reading.marked
    return partial(read, end=form.end, parse=parser(form, offered))


def marker(form: CallFormat) -> str:
    """What a reader looks for: of a name, all forms are read."""
    return FORMATS[form.name].start


def of(tokenizer: Any, found: Tools | None, *, inside: bool = False) -> Plan:
    """For a chat's answer. inside: the prompt ends in the middle of a thought."""
    made, first = edges(tokenizer, found)
    return Plan(made, "reasoning" if inside else first, found)


def edges(tokenizer: Any, found: Tools | None) -> tuple[Edges, Mode]:
    """The markers of a model's answers, as mlx-lm's `make_text_state_machine` has them, and the first mode.

    tokenizer: mlx-lm's TokenizerWrapper. The start of a call ends thinking too: models forget to close it.
    """
    made: dict[Mode, list[tuple[str, Mode]]] = {"content": [], "reasoning": [], "header": []}
    for source, targets in tokenizer.response_transitions.items():
        made[_MODES[source]] += [(marker, _MODES[target]) for marker, target in targets]
    if tokenizer.has_thinking:
        made["content"].append((tokenizer.think_start, "reasoning"))
        made["reasoning"].append((tokenizer.think_end, "content"))
    made["content"] += [(marker, "content") for marker in tokenizer.structural_markers]
    for mode in made:
        made[mode] = [(marker, target) for marker, target in made[mode] if target != "call"]
    if found is not None:
        for mode in made:
            made[mode].append((marker(found.form) or PYTHON_TAG, "call"))
    first = tokenizer.response_initial_state
    return {mode: tuple(pairs) for mode, pairs in made.items() if pairs}, _MODES.get(first, "content")
