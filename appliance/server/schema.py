"""What a request body may say: one strict structure per endpoint.

Fields come in three groups. Those that LMX honours have their type and are checked here or in
`checks`. Those that belong to the public API but are not built yet are declared as `Any` and listed
in `NOTHING` with the values that ask for nothing, so that a client that spells out its defaults is
served and one that wants the feature is refused by name. Any other field is unknown, and refused.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """One piece of a message's content. Only `type: text` is served."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    # What assistant messages carry when a client sends back an earlier answer.
    refusal: Any = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    tool_calls: Any = None
    tool_call_id: Any = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both endpoints share. `None` always means: not said."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    ignore_eos: bool | None = None
    # Who asks and how to file it: accepted, and without influence on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not served yet; see NOTHING.
    logprobs: Any = None
    service_tier: Any = None
    store: Any = None


class ChatRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # Not served yet; see NOTHING.
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    # Not served yet; see NOTHING.
    best_of: Any = None
    echo: Any = None
    suffix: Any = None


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class UnloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body that has nothing to say."""


# Values that ask for nothing. `None` and empty lists are on every list without being named.
NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": (),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "prompt_cache_retention": ("in-memory", "in_memory"),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": (),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
