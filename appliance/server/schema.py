"""What a request body may say: one strict structure per endpoint.

Fields come in three groups. Those that LMX honours have their type and are checked here or in
`rows`. Those that belong to the public API but are not built yet are listed in `NOTHING` with the
values that ask for nothing, so that a client that spells out its defaults is served and one that wants
the feature is refused by name. Any other field is unknown, and refused.

`Raw` keeps a value as the bytes it came in: what is only compared or small by nature is decoded when it
is known to be short, and 32 MiB of empty lists never become eleven million Python objects.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw

NULL = Raw(b"null")


class Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One piece of a message's content. Only `type: text` is served."""

    type: str
    text: str | None = None
    image_url: Raw = NULL
    input_audio: Raw = NULL
    file: Raw = NULL
    refusal: Raw = NULL


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    # What assistant messages carry when a client sends back an earlier answer.
    refusal: Raw = NULL
    annotations: Raw = NULL
    audio: Raw = NULL
    function_call: Raw = NULL
    tool_calls: Raw = NULL
    tool_call_id: Raw = NULL


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both endpoints share. `None` always means: not said."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    stop: Raw = NULL  # a string or a list of strings
    seed: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Raw = NULL  # token id -> bias
    ignore_eos: bool | None = None
    # Who asks and how to file it: accepted, and without influence on the answer.
    user: str | None = None
    metadata: Raw = NULL  # string -> string
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Not served yet; see NOTHING.
    logprobs: Raw = NULL
    service_tier: Raw = NULL
    store: Raw = NULL


class ChatRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    chat_template_kwargs: Raw = NULL  # name -> value
    # Not served yet; see NOTHING.
    audio: Raw = NULL
    function_call: Raw = NULL
    functions: Raw = NULL
    modalities: Raw = NULL
    moderation: Raw = NULL
    parallel_tool_calls: Raw = NULL
    prediction: Raw = NULL
    prompt_cache_retention: Raw = NULL
    reasoning_effort: Raw = NULL
    response_format: Raw = NULL
    tool_choice: Raw = NULL
    tools: Raw = NULL
    top_logprobs: Raw = NULL
    verbosity: Raw = NULL
    web_search_options: Raw = NULL


class CompletionRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    # Not served yet; see NOTHING.
    best_of: Raw = NULL
    echo: Raw = NULL
    suffix: Raw = NULL


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class UnloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None


class DrainRequest(msgspec.Struct, forbid_unknown_fields=True):
    session_timeout: str | int | float = "30s"
    wait: bool = False


class WarmupRequest(msgspec.Struct, forbid_unknown_fields=True):
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
