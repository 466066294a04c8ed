"""A model's chat template: what it reads, what it can write, and conversations written with it.

A template is a program of the model's author (or the operator's), and what it does not know it leaves out
without a word. So before a request relies on something (tools, earlier calls and their results), a small
conversation is written with it to see whether that appears. Results are kept: each costs one rendering.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import meta

from appliance.engine.answer import parsers
from appliance.engine.answer.formats import CallFormat
from appliance.engine.refusal import Refusal
from appliance.engine.segments import Segments

Message = dict[str, Any]
# Words that no template has by itself.
_TOOL = "lmx_probe_tool"
_CALLED = "lmx_probe_call"
_RESULT = "lmx_probe_result"
_USER: Message = {"role": "user", "content": "hello"}
_CALL: Message = {
    "id": "lmxprobe0",  # Mistral's templates want nine letters and digits
    "type": "function",
    "function": {"name": _CALLED, "arguments": "{}"},
}
_CONVERSATION: list[Message] = [
    _USER,
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": _CALL["id"], "name": _CALLED, "content": _RESULT},
    {"role": "assistant", "content": "done"},
    _USER,
]
_OFFERED = {
    "type": "function",
    "function": {
        "name": _TOOL,
        "description": "tries the template",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


class Template:
    """Of one loaded tokenizer, mlx-lm's TokenizerWrapper. Only for the intake thread."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        text = tokenizer.chat_template
        self.text: str = text if isinstance(text, str) else ""
        self.segments = Segments(tokenizer, self.text)
        # Some models come with a function of mlx-lm's instead, or have one template for each purpose.
        self.own = self.text == "" or tokenizer._chat_template is not None

    # -- what it knows -------------------------------------------------------------------------------

    @cached_property
    def reads(self) -> frozenset[str]:
        """The names it reads. Empty where it is no text."""
        if self.own:
            return frozenset()
        try:
            return self.parse()
        except Exception:  # noqa: BLE001  rendering says what is wrong with it
            return frozenset()

    def parse(self) -> frozenset[str]:
        """The names it reads. Raises what Jinja raises for a broken one."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        environment = _compile_jinja_template(self.text).environment
        return frozenset(meta.find_undeclared_variables(environment.parse(self.text)))

    @property
    def thinks(self) -> bool:
        """It can open a part for thinking, or knows of such parts in earlier answers."""
        tokenizer = self.tokenizer
        if not tokenizer.has_thinking:
            return False
        marks = (tokenizer.think_start, tokenizer.think_end)
        return self.own or bool(self.switches) or any(mark in self.text for mark in marks)

    @property
    def switches(self) -> frozenset[str]:
        """The names of those of its variables that turn thinking on or off."""
        return self.reads & {"enable_thinking", "thinking"}

    @cached_property
    def offers(self) -> bool:
        """Tools that are offered appear in the prompt."""
        return _TOOL in self._tried([_USER], tools=[_OFFERED])

    @cached_property
    def calls(self) -> bool:
        """Calls in earlier answers appear."""
        return any(_CALLED in text for text in self._history)

    @cached_property
    def results(self) -> bool:
        """What tools gave appears."""
        return any(_RESULT in text for text in self._history)

    @cached_property
    def _history(self) -> list[str]:
        """Some templates write what was called only where tools are offered."""
        return [self._tried(_CONVERSATION), self._tried(_CONVERSATION, tools=[_OFFERED])]

    def _tried(self, messages: list[Message], **more: Any) -> str:
        try:
            return self._render(messages, {"add_generation_prompt": True, **more})
        except Exception:  # noqa: BLE001  what it refuses here, it does not write either
            return ""

    def form(self, name: str) -> CallFormat | None:
        """How the model writes calls. name: `auto` or a parser's. Raises Refusal."""
        try:
            return parsers.find(name, self.tokenizer)
        except parsers.UnknownParser as error:
            raise Refusal(
                "not_supported", f"this model's calls cannot be read: {error}", param="tools"
            ) from error

    # -- what is asked of it -------------------------------------------------------------------------

    def check(
        self, messages: Sequence[Message], tools: list[Message] | None, form: CallFormat | None
    ) -> None:
        """Refuse what would be left out. Raises Refusal, not_supported."""
        if not self.tokenizer.has_chat_template:
            raise Refusal(
                "invalid_request", "this model has no chat template; use /v1/completions", param="messages"
            )
        if tools:
            if not self.offers:
                raise unable("its chat template does not show tools to it", "tools")
            if form is None:
                raise unable("nothing says how it writes calls; set `tool_parser` for it", "tools")
        if any(message.get("tool_calls") for message in messages) and not self.calls:
            raise unable("its chat template leaves out earlier calls", "messages")
        if any(message.get("role") == "tool" for message in messages) and not self.results:
            raise unable("its chat template leaves out what tools gave", "messages")

    def write(
        self,
        messages: Sequence[Message],
        tools: list[Message] | None,
        kwargs: Mapping[str, Any],
        form: CallFormat | None,
        *,
        go_on: bool = False,
    ) -> str:
        """The conversation as text. go_on: the last message begins the answer. Raises Refusal."""
        options: dict[str, Any] = dict(kwargs)
        if tools:
            options["tools"] = tools
        if go_on:
            self._check_last(messages)
            options["continue_final_message"] = True
        else:
            options["add_generation_prompt"] = True
        made = numbered([plain(message) for message in messages], form)
        try:
            return self._render(made, options)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(
                "invalid_request",
                f"the model's chat template does not accept these messages: {error}",
                param="messages",
            ) from error

    def _render(self, messages: list[Message], options: dict[str, Any]) -> str:
        """Arguments of calls as objects, which most templates want; as JSON text where that fails."""
        loaded = [opened(message) for message in messages]
        apply = self.tokenizer.apply_chat_template
        try:
            return str(apply(loaded, tokenize=False, **options))
        except Exception as first:
            if all(new is old for new, old in zip(loaded, messages, strict=True)):
                raise
            try:
                return str(apply(messages, tokenize=False, **options))
            except Exception:  # noqa: BLE001  the first failure says more
                raise first from None

    def _check_last(self, messages: Sequence[Message]) -> None:
        last = messages[-1]
        if self.own:
            raise unable(
                "its prompts are not written by a template that can leave an answer open", "messages"
            )
        if last.get("role") != "assistant" or last.get("tool_calls") or not last.get("content"):
            raise Refusal(
                "invalid_request",
                "an answer is continued where the last message is an assistant's, with text and no calls",
                param="messages",
            )

    def inside(self, text: str, messages: Sequence[Message], *, go_on: bool = False) -> bool:
        """Whether the prompt, as written, ends in the middle of a thought."""
        tokenizer = self.tokenizer
        if not tokenizer.has_thinking:
            return False
        start, end = tokenizer.think_start, tokenizer.think_end
        if not go_on:
            return text.rstrip().endswith(start)
        begun = str(plain(messages[-1]).get("content"))
        return begun.rfind(start) > begun.rfind(end)


def unable(why: str, param: str) -> Refusal:
    return Refusal("not_supported", f"this model cannot do that with {param}: {why}", param=param)


def plain(message: Message) -> Message:
    """Content parts joined to one string: templates of text models take nothing else."""
    content = message.get("content")
    if isinstance(content, str):
        return message
    if content is None:
        return {**message, "content": ""}
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Refusal(
                "invalid_request", f"this model takes text only, not {kind!r} parts", param="messages"
            )
        texts.append(part["text"])
    return {**message, "content": "".join(texts)}


def opened(message: Message) -> Message:
    """The arguments of its calls as objects, where they are JSON."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        if isinstance(function.get("arguments"), str):
            # what a model wrote half, or no reader could read, templates get as the text it is
            with contextlib.suppress(ValueError, RecursionError):
                function["arguments"] = json.loads(function["arguments"] or "{}")
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls}


def numbered(messages: list[Message], form: CallFormat | None) -> list[Message]:
    """The ids of calls in the form that the model was trained on; others would lead it astray.

    Kimi K2 names and counts them, and Mistral's templates refuse any but nine letters and digits.
    """
    if form is None or form.name not in ("kimi_k2", "mistral"):
        return messages
    ids: dict[str, str] = {}
    made = []
    for message in messages:
        calls = []
        for call in message.get("tool_calls") or []:
            old = str(call.get("id"))
            new = f"functions.{call['function']['name']}:{len(ids)}"
            if form.name == "mistral":
                new = old if len(old) == 9 and old.isalnum() else f"{len(ids):09d}"
            ids[old] = new
            calls.append({**call, "id": new})
        if calls:
            message = {**message, "tool_calls": calls}
        if (answered := message.get("tool_call_id")) is not None:
            message = {**message, "tool_call_id": ids.get(str(answered), str(answered))}
        made.append(message)
    return made
