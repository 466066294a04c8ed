"""What a request to /v1/responses may say; see `appliance.server.schema` for how such structures work.

Source: OpenAI's API reference, as the types of its Python package write it down. An item has one structure
whatever its type, so that a type that is not served is refused by its name, not by one of its fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from appliance.server.schema import NULL


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of a message, of a reasoning item or of a function's output."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: Raw = NULL
    logprobs: Raw = NULL
    prompt_cache_breakpoint: Raw = NULL
    # Of parts that are not served.
    image_url: Raw = NULL
    file_id: Raw = NULL
    file_url: Raw = NULL
    file_data: Raw = NULL
    filename: Raw = NULL
    detail: Raw = NULL
    input_audio: Raw = NULL


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """A message, a call, its output, or reasoning."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    # function_call and function_call_output
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    caller: Raw = NULL
    namespace: Raw = NULL
    created_by: Raw = NULL
    # reasoning
    summary: list[Part] | None = None
    encrypted_content: str | None = None


class ItemKind(msgspec.Struct):
    """A look at an item before it is read: those not served have other fields, and are refused by name."""

    type: str = "message"


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    name: str
    parameters: Raw = NULL
    strict: bool | None = None
    description: str | None = None
    allowed_callers: Raw = NULL
    defer_loading: bool | None = None
    output_schema: Raw = NULL


class ToolKind(msgspec.Struct):
    type: str


class ToolName(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ToolName]


class Format(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Raw = NULL
    strict: bool | None = None
    description: str | None = None


class Text(msgspec.Struct, forbid_unknown_fields=True):
    format: Format | None = None
    verbosity: Raw = NULL


class Reasoning(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Raw = NULL
    generate_summary: Raw = NULL
    context: Raw = NULL
    mode: Raw = NULL


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class Prompt(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What /v1/responses and /v1/responses/input_tokens share. `None` always means: not said."""

    model: str | None = None
    input: str | list[Raw] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Raw] | None = None
    tool_choice: Raw = NULL
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    truncation: Raw = NULL
    conversation: Raw = NULL
    personality: Raw = NULL


class CountRequest(Prompt, forbid_unknown_fields=True, kw_only=True):
    pass


class ResponseRequest(Prompt, forbid_unknown_fields=True, kw_only=True):
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    # Who asks and how to file it: accepted, and without influence on the answer.
    metadata: Raw = NULL
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Raw = NULL
    # Not served, but for values that ask for nothing.
    access_programs: Raw = NULL
    background: Raw = NULL
    context_management: Raw = NULL
    image: Raw = NULL
    max_tool_calls: Raw = NULL
    moderation: Raw = NULL
    prompt: Raw = NULL
    prompt_cache_options: Raw = NULL
    prompt_cache_retention: Raw = NULL
