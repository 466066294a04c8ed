"""The values a request may carry: ranges, limits, and what is refused by name. Pure."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from msgspec import Raw

from appliance.errors import ApiError
from appliance.server import schema
from appliance.server.parse import parse
from reconciler.units import parse_duration

T = TypeVar("T")

MAX_CHOICES = 8
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_TOKENS = 10_000_000  # beyond any model; the engine holds requests to the effective ceiling
STOP: Any = str | list[str]
SHORT = 64  # bytes: longer than any value that asks for nothing
SMALL = 65_536
LONGEST = 86_400.0  # seconds

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
    "logprobs": (0, MAX_LOGPROBS, True),
    "top_logprobs": (0, MAX_LOGPROBS, True),
    "thinking_budget": (0, MAX_TOKENS, True),
}


def invalid(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", f"{param}: {message}", param=param)


def not_supported(param: str, more: str = "") -> ApiError:
    return ApiError("not_supported", f"{param} is not supported yet{more}", param=param)


def check_common(body: schema.Generate) -> None:
    """Wishes that no endpoint grants yet, and every number's range."""
    for name, nothings in schema.NOTHING.items():
        asks_nothing(getattr(body, name, schema.NULL), name, nothings)
    for name, (low, high, closed) in RANGES.items():
        value = getattr(body, name, None)
        if value is not None and not (low <= value <= high and (closed or value > low)):
            start = f"from {low}" if closed else f"above {low}"
            raise invalid(name, f"must be {start} to {high}, found {shown(value)}")
    if body.stream_options is not None:
        if not body.stream:
            raise invalid("stream_options", "is allowed only with stream: true")
        if body.stream_options.include_obfuscation:
            raise not_supported("stream_options.include_obfuscation")
    small(body.metadata, "metadata", dict[str, str])


def asks_nothing(raw: Raw, name: str, nothings: tuple[Any, ...] = ()) -> None:
    """Refuse a value that wishes for what is not built yet. null and [] are no wishes."""
    if raw is schema.NULL:
        return
    if len(memoryview(raw)) <= SHORT:
        value = parse(raw, object, name)
        # 0 == False and 1 == True in Python; in a request they are different wishes
        if value is None or value == [] or any(value == n and type(value) is type(n) for n in nothings):
            return
    more = f"; it may be {' or '.join(shown(n) for n in nothings)}" if nothings else ""
    instead = schema.INSTEAD.get(name.rpartition(".")[2])
    raise not_supported(name, f"; use {instead}" if instead else more)


def small(raw: Raw, name: str, kind: type[T]) -> T | None:
    """A field that has no business being long."""
    if raw is schema.NULL or bytes(memoryview(raw)[:5]) == b"null":
        return None
    if len(memoryview(raw)) > SMALL:
        raise invalid(name, f"is longer than {SMALL} bytes")
    return parse(raw, kind, name)


def stops(raw: Raw) -> list[str]:
    given = small(raw, "stop", STOP)
    listed = [given] if isinstance(given, str) else given or []
    if len(listed) > MAX_STOPS:
        raise invalid("stop", f"at most {MAX_STOPS} stop sequences, found {len(listed)}")
    if "" in listed:
        raise invalid("stop", "a stop sequence may not be empty")
    return listed


def bias(raw: Raw) -> dict[int, float] | None:
    given = small(raw, "logit_bias", dict[int, float])
    for token, value in (given or {}).items():
        if not 0 <= token < 2**31:
            raise invalid("logit_bias", f"{shown(token)} is not a token id")
        if not -100 <= value <= 100:
            raise invalid(f"logit_bias.{token}", f"must be from -100 to 100, found {shown(value)}")
    return given or None


def seconds(value: str | float, name: str) -> float:
    """A duration: with its unit, or plain seconds."""
    try:
        found = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError as error:
        raise invalid(name, f"{error}; write it like 30s, or give seconds as a number") from error
    if not 0 <= found <= LONGEST:
        raise invalid(name, f"must be from 0 to a day, found {shown(value)}")
    return found


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
