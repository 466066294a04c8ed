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


class CalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str
    parsed_arguments: Raw = NULL  # OpenAI's package leaves its own reading of them in; it counts for nothing


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """A call in an assistant's message."""

    id: str
    type: str = "function"
    function: CalledFunction | None = None
    index: int | None = None  # left in by clients that put a message together from a stream
    custom: Raw = NULL


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    # What assistant messages carry when a client sends back an earlier answer.
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    parsed: Raw = NULL  # as parsed_arguments
    refusal: Raw = NULL
    annotations: Raw = NULL
    audio: Raw = NULL
    function_call: Raw = NULL


class Function(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: Raw = NULL  # a JSON Schema of the type object
    strict: bool | None = None


class Kind(msgspec.Struct):
    """A first look at a tool, so that a kind that is not served is refused by its name."""

    type: Any = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class Named(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """One tool, by its name."""

    type: Literal["function"]
    function: Named


class Allowed(msgspec.Struct, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class PlainText(msgspec.Struct, forbid_unknown_fields=True):
    """`response_format` of the types text and json_object."""

    type: str


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    schema: Raw = NULL
    description: str | None = None
    strict: bool | None = None  # the schema is kept to, whatever this says


class JsonFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class RegexFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["regex"]
    pattern: str


class LarkFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["grammar"]
    grammar: str


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
    response_format: Raw = NULL  # see `answer_format`
    # Not served yet; see NOTHING.
    service_tier: Raw = NULL
    store: Raw = NULL


class ChatRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: int | None = None
    tools: Raw = NULL  # a list of `Tool`
    tool_choice: Raw = NULL  # a word, NamedTool or AllowedTools
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    thinking_budget: int | None = None  # most tokens of reasoning
    chat_template_kwargs: Raw = NULL  # name -> value
    continue_final_message: bool | None = None  # the last message is the beginning of the answer
    skills: list[str] | None = None  # those of lmx.yaml that it may use; see `skills`
    skill_mode: Literal["run", "return"] | None = None  # who runs their calls; run: LMX
    # Not served yet; see NOTHING.
    audio: Raw = NULL
    function_call: Raw = NULL
    functions: Raw = NULL
    modalities: Raw = NULL
    moderation: Raw = NULL
    prediction: Raw = NULL
    prompt_cache_options: Raw = NULL
    prompt_cache_retention: Raw = NULL
    verbosity: Raw = NULL
    web_search_options: Raw = NULL


class CompletionRequest(Generate, forbid_unknown_fields=True, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    # Not served yet; see NOTHING.
    best_of: Raw = NULL
    echo: Raw = NULL
    suffix: Raw = NULL


class LoadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class PullRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class UnloadRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None


class DrainRequest(msgspec.Struct, forbid_unknown_fields=True):
    session_timeout: str | int | float = "30s"
    wait: bool = False


class WarmupRequest(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None


class TryRequest(msgspec.Struct, forbid_unknown_fields=True, rename={"for_": "for"}):
    """spec: the text of a file. file: its name, for messages alone. by: who asks, for others to read."""

    spec: str
    for_: str | int | float = "5m"
    by: str | None = None
    file: str | None = None


class RollbackRequest(msgspec.Struct, forbid_unknown_fields=True, rename={"for_": "for"}):
    """generation: null is the last-known-good."""

    generation: int | None = None
    for_: str | int | float = "15m"
    by: str | None = None


class ByRequest(msgspec.Struct, forbid_unknown_fields=True):
    """by: who asks, for others to read."""

    by: str | None = None


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A body that has nothing to say."""


# What to use in place of a field of the old interface.
INSTEAD = {"functions": "tools", "function_call": "tool_choice, and tool_calls in messages"}

# Values that ask for nothing. `None` and empty lists are on every list without being named.
NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": (),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in-memory", "in_memory"),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
