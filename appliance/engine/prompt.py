"""From a request to token ids, and the check against the ceiling.

Runs on the intake thread, so that a long prompt does not stall decoding. A prompt that is far over
the ceiling is refused in bounded time: its tokens are counted slice by slice, and counting stops there.
Nothing is ever cut to make it fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.engine.answer import plan
from appliance.engine.answer.plan import PLAIN, Plan
from appliance.engine.choice import Choice, choose, merge
from appliance.engine.pricing import Price
from appliance.engine.refusal import Refusal as Refusal
from appliance.engine.template import Template, unable
from appliance.wire import Configure, Sampling, Submit

if TYPE_CHECKING:
    from appliance.engine.constraint.plan import Guiding

CHARACTERS_PER_TOKEN = 4  # of ordinary text: longer than this times the ceiling is counted in slices
SLICE = 64 * 1024  # characters
COUNTED = 4  # times the ceiling: prompts that are longer are not counted to their end


@dataclass(frozen=True)
class Job:
    """A request that can run: at least one prompt token, at least one token of room."""

    rid: int
    prompt: list[int]
    max_tokens: int
    choice: Choice
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool
    caller: str = ""
    scope: str = ""
    session: str | None = None
    logprobs: int | None = None  # None: none; else how many alternatives to each token
    guiding: Guiding | None = None  # what its tokens must follow; None: nothing
    plan: Plan = PLAIN  # the parts that its answer may have
    goes_on: bool = False  # the answer is the rest of a text that the prompt begins

    @property
    def total(self) -> int:
        """Tokens it may come to: what is reserved for it."""
        return len(self.prompt) + self.max_tokens


def prepare(submit: Submit, limits: Configure, template: Template, vocabulary: int) -> Job:
    """Render, tokenise and check one request. Raises Refusal."""
    fields = merge(submit.sampling, limits.sampling, limits.force)
    check_sampling(fields)
    prompt, parts = read(submit, limits, template, vocabulary)
    if not prompt:
        raise Refusal("invalid_request", "the prompt is empty", param=prompt_field(submit))
    asked = None if limits.force and limits.sampling.max_tokens is not None else submit.sampling.max_tokens
    max_tokens = room(len(prompt), asked, fields.max_tokens, limits, prompt_field(submit))
    if "" in submit.stop:
        raise Refusal("invalid_request", "a stop sequence is empty", param="stop")
    for token in submit.logit_bias or {}:
        if not 0 <= token < vocabulary:
            raise Refusal(
                "invalid_request",
                f"logit_bias names token {token}; this model's tokens are 0 to {vocabulary - 1}",
                param="logit_bias",
            )
    return Job(
        rid=submit.rid,
        prompt=prompt,
        max_tokens=max_tokens,
        choice=choose(fields, submit.logit_bias),
        seed=None if submit.seed is None else submit.seed & (2**64 - 1),
        stop=tuple(submit.stop),
        ignore_eos=submit.ignore_eos,
        caller=submit.caller,
        scope=submit.scope,
        session=submit.session,
        logprobs=submit.logprobs,
        plan=parts,
        goes_on=submit.messages is None or submit.continue_final,
    )


def check_sampling(fields: Sampling) -> None:
    """Values no sampler can work with. Raises Refusal."""
    ranges: dict[str, tuple[float, float]] = {
        "temperature": (0, 100),
        "top_p": (0, 1),
        "min_p": (0, 1),
        "top_k": (0, 2**31),
        "max_tokens": (1, 2**63),
        "presence_penalty": (-100, 100),
        "frequency_penalty": (-100, 100),
    }
    for name, (low, high) in ranges.items():
        value = getattr(fields, name)
        if value is not None and not low <= value <= high:  # a NaN fails this too
            raise Refusal("invalid_request", f"{name} must be {low} to {high}, not {value}", param=name)
    repetition = fields.repetition_penalty
    if repetition is not None and not 0 < repetition <= 100:
        raise Refusal(
            "invalid_request",
            f"repetition_penalty must be above 0 and at most 100, not {repetition}",
            param="repetition_penalty",
        )


def prompt_field(submit: Submit) -> str:
    return "prompt" if submit.messages is None else "messages"


def count(submit: Submit, limits: Configure, template: Template, vocabulary: int) -> int:
    """Tokens of the prompt, also where it is too long to run, up to a few times of that. Raises Refusal."""
    wide = msgspec.structs.replace(limits, context=limits.context * COUNTED, context_declared=None)
    return len(read(submit, wide, template, vocabulary)[0])


def read(submit: Submit, limits: Configure, template: Template, vocabulary: int) -> tuple[list[int], Plan]:
    """The prompt's tokens, and the parts that its answer may have. Raises Refusal."""
    tokenizer = template.tokenizer
    if (submit.messages is None) == (submit.prompt is None):
        raise Refusal("invalid_request", "send either messages or a prompt")
    if submit.messages is not None:
        text, parts = render(submit, submit.messages, limits, template)
        check_length(text, limits, tokenizer, "messages")
        # What a conversation's prompt cache may keep, its tokens may be kept as well.
        return template.segments.encode(text, submit.scope, keep=limits.cache_memory > 0), parts
    if submit.tools:
        raise unable("a prompt has no chat template", "tools")
    if isinstance(submit.prompt, str):
        begin = tokenizer.bos_token
        special = begin is None or not submit.prompt.startswith(begin)
        check_length(submit.prompt, limits, tokenizer, "prompt")
        return list(tokenizer.encode(submit.prompt, add_special_tokens=special)), PLAIN
    tokens = submit.prompt or []
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise Refusal(
            "invalid_request",
            f"the prompt holds token {wrong}; this model's tokens are 0 to {vocabulary - 1}",
            param="prompt",
        )
    return tokens, PLAIN


def render(
    submit: Submit, messages: list[dict[str, Any]], limits: Configure, template: Template
) -> tuple[str, Plan]:
    """The conversation as the chat template writes it. Raises Refusal.

    With `tool_choice` none the tools stay out of the prompt: what the model does not know it does not call.
    """
    if not messages:
        raise Refusal("invalid_request", "messages is empty", param="messages")
    offered = submit.tools if submit.tools and submit.tool_choice != "none" else None
    called = any(message.get("tool_calls") for message in messages)
    form = template.form(limits.tool_parser) if offered or called else None
    template.check(messages, offered, form)
    kwargs = switches(submit.template_kwargs or {}, limits, template)
    text = template.write(messages, offered, kwargs, form, go_on=submit.continue_final)
    found = None
    if offered and form is not None:
        found = plan.tools(form, offered, submit.tool_names, not submit.parallel_tool_calls)
    inside = template.inside(text, messages, go_on=submit.continue_final)
    return text, plan.of(template.tokenizer, found, inside=inside)


def switches(asked: dict[str, Any], limits: Configure, template: Template) -> dict[str, Any]:
    """The template's variables: what the request says of thinking, else what the operator says.

    Raises Refusal, not_supported, where the request asks for thinking, or for none, and the model's template
    cannot give it.
    """
    given = {"enable_thinking": limits.enable_thinking, **asked}
    able = template.thinks or bool(template.switches)
    if "reasoning_effort" in asked and not able and "reasoning_effort" not in template.reads:
        raise unable("it does not think", "reasoning_effort")
    if asked.get("enable_thinking") is True and not able:
        raise unable("it does not think", "enable_thinking")
    if asked.get("enable_thinking") is False and template.thinks and not (template.switches or template.own):
        raise unable("its chat template cannot turn thinking off", "enable_thinking")
    if template.switches == {"thinking"}:
        given["thinking"] = given["enable_thinking"]
    elif "thinking" in template.switches and "enable_thinking" in asked:
        given["thinking"] = asked["enable_thinking"]  # for templates that think only where it is asked for
    return given


def check_length(text: str, limits: Configure, tokenizer: Any, param: str) -> None:
    """Refuse early what is far too long: count slice by slice, and stop once the ceiling is surely passed.

    A cut inside a word adds a few tokens at most, which the allowance covers. Raises Refusal.
    """
    if len(text) <= CHARACTERS_PER_TOKEN * limits.context:
        return
    counted = 0
    for number, start in enumerate(range(0, len(text), SLICE), start=1):
        counted += len(tokenizer.encode(text[start : start + SLICE], add_special_tokens=False))
        if counted - 16 * number > limits.context:
            raise too_long(counted - 16 * number, limits, param, more=start + SLICE < len(text))


def too_long(tokens: int, limits: Configure, param: str, *, more: bool = False) -> Refusal:
    declared = limits.context_declared
    at_least = "more than " if more else ""
    lowered = (
        f" (declared {declared}, lowered for now)"
        if declared is not None and declared > limits.context
        else ""
    )
    return Refusal(
        "context_length_exceeded",
        f"the prompt has {at_least}{tokens} tokens; this model's ceiling for prompt and output together is "
        f"{limits.context} tokens{lowered}",
        param=param,
        details=details(tokens, limits),
    )


def details(tokens: int, limits: Configure) -> dict[str, Any]:
    return {"prompt_tokens": tokens, "declared": limits.context_declared, "effective": limits.context}


def room(prompt: int, asked: int | None, default: int | None, limits: Configure, param: str) -> int:
    """How many tokens the request may generate. `asked`: what the request said. Raises Refusal."""
    left = limits.context - prompt
    if left < 1:
        raise too_long(prompt, limits, param)
    if asked is None:
        return left if default is None else min(default, left)
    if asked > left:
        raise Refusal(
            "context_length_exceeded",
            f"the prompt has {prompt} tokens and max_tokens asks for {asked}; this model's ceiling for both "
            f"together is {limits.context} tokens, so max_tokens can be at most {left}",
            param="max_tokens",
            details={**details(prompt, limits), "max_tokens": asked},
        )
    return asked


def check_memory(job: Job, submit: Submit, limits: Configure, price: Price) -> None:
    """Refuse what would not fit even alone. Raises Refusal.

    What a request may generate is reserved from its start, so the answer names both ways out: a shorter
    prompt, or a smaller max_tokens.
    """
    if price.alone(job.total, limits):
        return
    prompt, most = len(job.prompt), price.largest(limits)
    if most < 2:
        raise no_room(job, limits, price)
    sizes = {**details(prompt, limits), "max_tokens": job.max_tokens}
    asked = "max_tokens asks for" if submit.sampling.max_tokens is not None else "max_tokens, by default, is"
    shorter = max(0, most - job.max_tokens)
    declared = limits.context_declared
    ceiling = f"the ceiling is {limits.context} tokens"
    ceiling += f" (declared {declared})" if declared is not None and declared != limits.context else ""
    ways = [f"a prompt of at most {shorter} tokens would fit with that max_tokens"] if shorter else []
    if prompt < most:
        ways.append(f"this prompt would fit with max_tokens of at most {most - prompt}")
    raise Refusal(
        "context_length_exceeded",
        f"the prompt has {prompt} tokens and {asked} {job.max_tokens}; {ceiling}, and the memory "
        f"left for this model now holds {most} tokens of prompt and output: {'; '.join(ways)}",
        param="max_tokens" if prompt < most else prompt_field(submit),
        details={**sizes, "largest_prompt": shorter, "largest_total": most},
    )


def no_room(job: Job, limits: Configure, price: Price) -> Refusal:
    """The memory is too small for the request now, though perhaps not later."""
    prompt, need = len(job.prompt), price.one(job.total, limits)
    return Refusal(
        "overloaded",
        f"this model may hold {limits.memory} bytes of memory for now, and a request of {prompt} prompt "
        f"tokens and {job.max_tokens} to generate needs {need}; retry later, or ask for less",
        details={
            **details(prompt, limits),
            "max_tokens": job.max_tokens,
            "largest_prompt": max(0, price.largest(limits) - job.max_tokens),
            "allowed_bytes": limits.memory,
            "needed_bytes": need,
        },
    )
