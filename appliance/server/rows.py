"""From a checked body to rows of generation: every value within its range, every wish granted or refused.

One request is one row, unless it asks for several choices or several prompts. Rows of one request
differ in their seed only, so that a seeded request gives the same choices each time.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.server import schema

MAX_CHOICES = 8
MAX_PROMPTS = 128
MAX_STOPS = 16
MAX_TOKENS = 10_000_000  # beyond any model; the engine holds requests to the effective ceiling
MAX_BIAS = 1024
SEED_BITS = 2**63

# name: (lowest, highest, whether the lowest itself is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0, 2, True),
    "top_p": (0, 1, False),
    "top_k": (-1, 1_000_000, True),
    "min_p": (0, 1, True),
    "repetition_penalty": (0, 10, False),
    "presence_penalty": (-2, 2, True),
    "frequency_penalty": (-2, 2, True),
    "n": (1, MAX_CHOICES, True),
    "max_tokens": (1, MAX_TOKENS, True),
    "max_completion_tokens": (1, MAX_TOKENS, True),
}


def invalid(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", f"{param}: {message}", param=param)


def not_supported(param: str, more: str = "") -> ApiError:
    return ApiError("not_supported", f"{param} is not supported yet{more}", param=param)


def chat_rows(body: schema.ChatRequest) -> list[wire.Submit]:
    _check_common(body)
    if not body.messages:
        raise invalid("messages", "at least one message is needed")
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise invalid("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
    messages = [_message(message, i) for i, message in enumerate(body.messages)]
    row = _row(body, body.max_tokens or body.max_completion_tokens)
    template = _template_kwargs(body.chat_template_kwargs)
    return _choices(msgspec.structs.replace(row, messages=messages, template_kwargs=template), body)


def completion_rows(body: schema.CompletionRequest) -> list[wire.Submit]:
    """Rows in the order of choices: all choices of the first prompt, then those of the second."""
    _check_common(body)
    row = _row(body, body.max_tokens)
    prompts = _prompts(body.prompt)
    if len(prompts) > MAX_PROMPTS:
        raise invalid("prompt", f"at most {MAX_PROMPTS} prompts in one request, found {len(prompts)}")
    rows = [
        choice for prompt in prompts for choice in _choices(msgspec.structs.replace(row, prompt=prompt), body)
    ]
    return rows


def _check_common(body: schema.ChatRequest | schema.CompletionRequest) -> None:
    for name, nothings in schema.NOTHING.items():
        value = getattr(body, name, None)
        # 0 == False and 1 == True in Python; on the wire they are different wishes
        if value is None or value == [] or any(value == n and type(value) is type(n) for n in nothings):
            continue
        more = f"; it may be {' or '.join(_shown(n) for n in nothings)}" if nothings else ""
        raise not_supported(name, more)
    for name, (low, high, closed) in RANGES.items():
        value = getattr(body, name, None)
        if value is not None and not (low <= value <= high and (closed or value > low)):
            start = f"from {low}" if closed else f"above {low}"
            raise invalid(name, f"must be {start} to {high}, found {_shown(value)}")
    if body.stream_options is not None:
        if not body.stream:
            raise invalid("stream_options", "is allowed only with stream: true")
        if body.stream_options.include_obfuscation:
            raise not_supported("stream_options.include_obfuscation")


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
        stop=_stops(body.stop),
        logit_bias=_bias(body.logit_bias),
        ignore_eos=bool(body.ignore_eos),
    )


def _choices(row: wire.Submit, body: schema.Generate) -> list[wire.Submit]:
    if body.seed is None:
        return [row] * (body.n or 1)
    if not -SEED_BITS <= body.seed < SEED_BITS:
        raise invalid("seed", "must fit in 64 bits")
    seeds = [(body.seed + i * 0x9E3779B97F4A7C15) % SEED_BITS for i in range(body.n or 1)]
    return [msgspec.structs.replace(row, seed=seed) for seed in seeds]


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise invalid("stop", f"at most {MAX_STOPS} stop sequences, found {len(stops)}")
    if "" in stops:
        raise invalid("stop", "a stop sequence may not be empty")
    return stops


def _bias(bias: dict[int, float] | None) -> dict[int, float] | None:
    if not bias:
        return None
    if len(bias) > MAX_BIAS:
        raise invalid("logit_bias", f"at most {MAX_BIAS} tokens, found {len(bias)}")
    for token, value in bias.items():
        if not 0 <= token < 2**31:
            raise invalid("logit_bias", f"{_shown(token)} is not a token id")
        if not -100 <= value <= 100:
            raise invalid(f"logit_bias.{token}", f"must be from -100 to 100, found {_shown(value)}")
    return bias


def _template_kwargs(given: dict[str, Any] | None) -> dict[str, Any] | None:
    for name, value in (given or {}).items():
        if name != "enable_thinking":
            raise not_supported(f"chat_template_kwargs.{name[:80]}", "; enable_thinking is")
        if not isinstance(value, bool):
            raise invalid("chat_template_kwargs.enable_thinking", "expected true or false")
    return given or None


def _message(message: schema.Message, i: int) -> dict[str, Any]:
    """As the chat template takes it: a role and one string."""
    where = f"messages[{i}]"
    if message.role in ("tool", "function"):
        raise not_supported(f"{where}.role", f": found {message.role!r}, and tools are not served")
    for name in ("refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"):
        if getattr(message, name) not in (None, []):
            raise not_supported(f"{where}.{name}")
    content = message.content
    if content is None:
        raise invalid(f"{where}.content", "is required")
    if not isinstance(content, str):
        content = "".join(_part(part, f"{where}.content[{j}]") for j, part in enumerate(content))
    rendered = {"role": "system" if message.role == "developer" else message.role, "content": content}
    if message.name is not None:
        rendered["name"] = message.name
    return rendered


def _part(part: schema.Part, where: str) -> str:
    if part.type != "text":
        raise not_supported(f"{where}.type", f": found {part.type[:40]!r}, and only text is served")
    if part.text is None:
        raise invalid(f"{where}.text", "is required")
    for name in ("image_url", "input_audio", "file", "refusal"):
        if getattr(part, name) is not None:
            raise not_supported(f"{where}.{name}")
    return part.text


def _prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One string, several, the token ids of one prompt, or those of several."""
    if isinstance(prompt, str):
        prompts: list[str | list[int]] = [prompt]
    elif all(isinstance(item, int) for item in prompt):
        prompts = [[item for item in prompt if isinstance(item, int)]]
    else:
        prompts = [item for item in prompt if not isinstance(item, int)]
        if len(prompts) < len(prompt) or len({type(item) for item in prompts}) > 1:
            raise invalid(
                "prompt", "give a string, a list of strings, token ids, or a list of token id lists"
            )
    for one in prompts:
        if not one:
            raise invalid("prompt", "is empty")
        if not isinstance(one, str) and not (min(one) >= 0 and max(one) < 2**31):
            raise invalid("prompt", "a token id is a whole number from 0")
    return prompts


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
