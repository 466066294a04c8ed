"""What a request asks its tokens to follow, checked and compiled before it starts. On the intake thread.

A grammar is for the answer only, and so begins behind the thoughts of a model that thinks. Tools and a
grammar together: the answer is calls, or follows the grammar. With `tool_choice` auto a grammar of calls is
needed only where a function is `strict` or not all may be called; else calls are as free as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.engine.answer.formats import CallFormat
from appliance.engine.constraint import bounds, calls, grammars
from appliance.engine.constraint.compiler import Compiler, Unsupported
from appliance.engine.constraint.guide import Guide, Marker, Thinking
from appliance.engine.refusal import Refusal
from appliance.wire import Configure, Submit

if TYPE_CHECKING:
    from appliance.engine.prompt import Job

TAIL = 16  # tokens of a prompt's end: enough for a marker that ends thinking


@dataclass(frozen=True)
class Guiding:
    """matcher: at its beginning, shared by all requests with that grammar; None: the answer is free.

    behind: the same for an answer behind a thought, where it is open whether there will be one.
    banned: tokens that must not come while it thinks.
    """

    compiler: Compiler
    matcher: Any = None
    behind: Any = None
    thinking: Thinking | None = None
    banned: frozenset[int] = frozenset()
    call: str | None = None  # what begins a tool call; None: the answer has none

    def guide(self, tokenizer: Any) -> Guide:
        """For one row."""
        from appliance.engine.output import (
            detokenizer,  # it brings MLX in, which comes after the model's order
        )

        free = self.matcher is None
        return Guide(
            None if free else self.matcher.deep_copy(),
            self.thinking,
            detokenizer(tokenizer),
            behind=None if self.behind is None else self.behind.deep_copy(),
            width=0 if free else int(self.compiler.ll.vocab_size),
            encode=self.compiler.encode,
            banned=self.banned,
            call=self.call,
        )


def make(
    submit: Submit,
    limits: Configure,
    job: Job,
    compiler: Compiler,
    tokenizer: Any,
) -> Guiding | None:
    """None: its tokens are free. job: as it is prepared so far. Raises Refusal.

    tokenizer: mlx-lm's TokenizerWrapper.
    """
    budget = _budget(submit, limits)
    offered = bool(submit.tools) and submit.tool_choice != "none"
    wanted = submit.grammar is not None or _calls_follow(submit, offered)
    if not wanted and budget is None:
        return None
    thinking = _thinking(submit, limits, job, tokenizer, budget)
    if not wanted:
        return None if thinking is None else Guiding(compiler, thinking=thinking)
    if submit.continue_final:
        what = "response_format" if submit.grammar is not None else "tool_choice"
        raise Refusal("not_supported", "a continued answer cannot be held to a grammar", param=what)
    if tokenizer.response_transitions:
        raise Refusal(
            "not_supported",
            "this model answers in channels, which no grammar is built for yet",
            param="tools",
        )
    form = job.plan.tools.form if job.plan.tools is not None else None
    param = "tools" if submit.grammar is None else "response_format"
    try:
        inside = thinking is not None and thinking.inside
        matcher = compiler.compile(_grammar(submit, compiler, form, gap=inside))
        if submit.grammar is not None:
            grammars.check_words(submit.grammar, compiler.specials)
        behind = None
        if thinking is not None and not inside:
            behind = compiler.compile(_grammar(submit, compiler, form, gap=True))
    except (Unsupported, bounds.TooMuch) as error:
        raise Refusal("unsupported_grammar", f"this cannot be enforced: {error}", param=param) from error
    banned = frozenset(tokenizer.eos_token_ids)
    if form is not None and (start := compiler.specials.get(form.start)) is not None:
        banned |= {start}
    return Guiding(compiler, matcher, behind, thinking, banned, None if form is None else form.start)


def _budget(submit: Submit, limits: Configure) -> int | None:
    if submit.messages is None:
        if submit.thinking_budget is not None:
            raise Refusal("invalid_request", "thinking_budget is for chats", param="thinking_budget")
        return None
    if (asked := submit.thinking_budget) is None:
        return limits.thinking_budget
    if asked < 0:
        raise Refusal("invalid_request", "thinking_budget must be 0 or more", param="thinking_budget")
    return asked


def _calls_follow(submit: Submit, offered: bool) -> bool:
    """Whether calls need a grammar. Raises Refusal."""
    if not offered:
        if submit.tool_choice == "required":
            raise Refusal(
                "invalid_request", "tool_choice asks for a call, and there are no tools", param="tools"
            )
        return False
    known = {(tool.get("function") or {}).get("name") for tool in submit.tools or []}
    if strange := sorted(set(submit.tool_names or []) - known):
        raise Refusal(
            "invalid_request", f"tool_choice names {strange[0]!r}, which is no tool", param="tool_choice"
        )
    some = submit.tool_names is not None and set(submit.tool_names) != known
    strict = any((tool.get("function") or {}).get("strict") is True for tool in submit.tools or [])
    return submit.tool_choice == "required" or some or strict


def _thinking(
    submit: Submit, limits: Configure, job: Job, tokenizer: Any, budget: int | None
) -> Thinking | None:
    """How this answer may begin to think; None: it does not."""
    if submit.messages is None or not tokenizer.has_thinking:
        return None
    inside = job.plan.initial == "reasoning"
    if not inside:
        asked = (submit.template_kwargs or {}).get("enable_thinking", limits.enable_thinking)
        closed = tokenizer.decode(job.prompt[-TAIL:]).rstrip().endswith(tokenizer.think_end)
        if closed or submit.continue_final or not asked:
            return None
    start = Marker(tokenizer.think_start, tuple(tokenizer.think_start_tokens))
    end = Marker(tokenizer.think_end, tuple(tokenizer.think_end_tokens))
    return Thinking(start, end, inside, budget)


def _grammar(submit: Submit, compiler: Compiler, form: CallFormat | None, *, gap: bool) -> str:
    """In llguidance's own form. gap: blanks may come before an answer. Raises Unsupported, TooMuch."""
    grammar = submit.grammar
    if form is None:
        if grammar is None:
            raise Unsupported("this model does not say how it calls tools")
        return grammars.answer(grammar, gap=gap)
    many = submit.parallel_tool_calls
    offered = calls.functions(submit.tools or [], submit.tool_names)
    rules = calls.Rules(form, compiler.specials)
    if submit.tool_choice == "required":
        return grammars.whole(rules.required(offered, many=many), None)
    if grammar is None:
        return grammars.whole(rules.maybe(offered, many=many), None)
    return grammars.whole(rules.maybe(offered, many=many, answer=grammars.lark(grammar), gap=gap), grammar)
