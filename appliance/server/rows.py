"""From a checked body to rows of generation. Pure.

One request is one row, unless it asks for several choices or several prompts. Rows of one request
differ in their seed only, so that a seeded request gives the same choices each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from appliance import wire
from appliance.server import answer_format, conversation, fields, schema, thinking, tools
from appliance.server.fields import invalid

# Counts are held so that no body stops the event loop for long while it is checked.
MAX_PROMPTS = 128
MAX_PROMPT_IDS = 1_000_000
SEED_BITS = 2**63


@dataclass(frozen=True)
class Chat:
    """left_out: see `volatile`."""

    rows: list[wire.Submit]
    left_out: bool


def chat(body: schema.ChatRequest, more: Sequence[dict[str, Any]] = ()) -> Chat:
    """more: tools to offer beside those of the body."""
    fields.check_common(body)
    found = conversation.read(body.messages)
    row = msgspec.structs.replace(
        _row(body, _most_tokens(body)),
        messages=found.messages,
        template_kwargs=thinking.kwargs(body.chat_template_kwargs, body.reasoning_effort),
        thinking_budget=body.thinking_budget,
        continue_final=_goes_on(body),
        logprobs=_logprobs(body),
    )
    return Chat(choices(tools.read(body, more).put(row), body.n, body.seed), found.left_out)


def completion_rows(body: schema.CompletionRequest) -> list[wire.Submit]:
    """Rows in the order of choices: all choices of the first prompt, then those of the second."""
    fields.check_common(body)
    row = msgspec.structs.replace(_row(body, body.max_tokens), logprobs=body.logprobs)
    rows = []
    for prompt in _prompts(body.prompt):
        rows += choices(msgspec.structs.replace(row, prompt=prompt), body.n, body.seed)
    return rows


def _row(body: schema.Generate, max_tokens: int | None) -> wire.Submit:
    return wire.Submit(
        rid=0,  # the router numbers it
        sampling=wire.Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=None if body.top_k is None else max(0, body.top_k),  # -1 and 0 both mean: off
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            max_tokens=max_tokens,
        ),
        stop=fields.stops(body.stop),
        logit_bias=fields.bias(body.logit_bias),
        ignore_eos=bool(body.ignore_eos),
        grammar=answer_format.read(body.response_format),
    )


def _most_tokens(body: schema.ChatRequest) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise invalid("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
    return body.max_tokens or body.max_completion_tokens


def _logprobs(body: schema.ChatRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise invalid("top_logprobs", "is allowed only with logprobs: true")
    return None


def _goes_on(body: schema.ChatRequest) -> bool:
    if not body.continue_final_message:
        return False
    if body.messages[-1].role != "assistant":
        text = f"the last message must be the assistant's, not of role {body.messages[-1].role}"
        raise invalid("continue_final_message", text)
    return True


def choices(row: wire.Submit, n: int | None, seed: int | None) -> list[wire.Submit]:
    """The same row so many times. With a seed each choice has its own, the same each time."""
    if seed is None:
        return [row] * (n or 1)
    if not -SEED_BITS <= seed < SEED_BITS:
        raise invalid("seed", "must fit in 64 bits")
    seeds = [(seed + i * 0x9E3779B97F4A7C15) % SEED_BITS for i in range(n or 1)]
    return [msgspec.structs.replace(row, seed=one) for one in seeds]


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One string, several, the token ids of one prompt, or those of several."""
    if isinstance(prompt, str):
        return [_prompt(prompt)]
    if len(prompt) > MAX_PROMPT_IDS:
        raise invalid("prompt", f"at most {MAX_PROMPT_IDS} tokens, found {len(prompt)}")
    kinds = set(map(type, prompt))
    if kinds == {int}:
        return [_prompt(cast(list[int], prompt))]
    if len(kinds) > 1 or int in kinds:
        raise invalid("prompt", "give a string, a list of strings, token ids, or a list of token id lists")
    if not 1 <= len(prompt) <= MAX_PROMPTS:
        raise invalid("prompt", f"from 1 to {MAX_PROMPTS} prompts in one request, found {len(prompt)}")
    return [_prompt(cast(str | list[int], one)) for one in prompt]


def _prompt(prompt: str | list[int]) -> str | list[int]:
    if not prompt:
        raise invalid("prompt", "is empty")
    if not isinstance(prompt, str) and not (min(prompt) >= 0 and max(prompt) < 2**31):
        raise invalid("prompt", "a token id is a whole number from 0")
    return prompt
