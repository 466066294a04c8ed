"""From a checked body to rows of generation. Pure.

One request is one row, unless it asks for several choices or several prompts. Rows of one request
differ in their seed only, so that a seeded request gives the same choices each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec

from appliance import wire
from appliance.server import fields, schema, volatile
from appliance.server.fields import invalid, not_supported

# Counts are held so that no body stops the event loop for long while it is checked.
MAX_PROMPTS = 128
MAX_MESSAGES = 20_000
MAX_PROMPT_IDS = 1_000_000
SEED_BITS = 2**63


@dataclass(frozen=True)
class Chat:
    """left_out: see `volatile`."""

    rows: list[wire.Submit]
    left_out: bool


def chat(body: schema.ChatRequest) -> Chat:
    fields.check_common(body)
    if not body.messages:
        raise invalid("messages", "at least one message is needed")
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise invalid("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
    count = sum(len(m.content) if isinstance(m.content, list) else 1 for m in body.messages)
    if count > MAX_MESSAGES:
        raise invalid("messages", f"at most {MAX_MESSAGES} messages and content parts, found {count}")
    read = [_message(message, i) for i, message in enumerate(body.messages)]
    messages = [message for message, _ in read]
    row = _row(body, body.max_tokens or body.max_completion_tokens)
    template = fields.template_kwargs(body.chat_template_kwargs)
    rows = _choices(msgspec.structs.replace(row, messages=messages, template_kwargs=template), body)
    return Chat(rows, any(left_out for _, left_out in read))


def completion_rows(body: schema.CompletionRequest) -> list[wire.Submit]:
    """Rows in the order of choices: all choices of the first prompt, then those of the second."""
    fields.check_common(body)
    row = _row(body, body.max_tokens)
    prompts = _prompts(body.prompt)
    rows = [
        choice for prompt in prompts for choice in _choices(msgspec.structs.replace(row, prompt=prompt), body)
    ]
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
    )


def _choices(row: wire.Submit, body: schema.Generate) -> list[wire.Submit]:
    if body.seed is None:
        return [row] * (body.n or 1)
    if not -SEED_BITS <= body.seed < SEED_BITS:
        raise invalid("seed", "must fit in 64 bits")
    seeds = [(body.seed + i * 0x9E3779B97F4A7C15) % SEED_BITS for i in range(body.n or 1)]
    return [msgspec.structs.replace(row, seed=seed) for seed in seeds]


def _message(message: schema.Message, i: int) -> tuple[dict[str, Any], bool]:
    """As the chat template takes it: a role and one string; and whether a changing line was left out."""
    where = f"messages[{i}]"
    if message.role in ("tool", "function"):
        raise not_supported(f"{where}.role", f": found {message.role!r}, and tools are not served")
    for name in ("refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"):
        raw = getattr(message, name)
        if raw is not schema.NULL:
            fields.asks_nothing(raw, f"{where}.{name}")
    content = message.content
    if content is None:
        raise invalid(f"{where}.content", "is required")
    texts = (
        [content]
        if isinstance(content, str)
        else [_part(part, f"{where}.content[{j}]") for j, part in enumerate(content)]
    )
    role = "system" if message.role == "developer" else message.role
    text, left_out = volatile.without(texts) if role == "system" else ("".join(texts), False)
    rendered = {"role": role, "content": text}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered, left_out


def _part(part: schema.Part, where: str) -> str:
    if part.type != "text":
        raise not_supported(f"{where}.type", f": found {part.type[:40]!r}, and only text is served")
    if part.text is None:
        raise invalid(f"{where}.text", "is required")
    for name in ("image_url", "input_audio", "file", "refusal"):
        raw = getattr(part, name)
        if raw is not schema.NULL:
            fields.asks_nothing(raw, f"{where}.{name}")
    return part.text


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
