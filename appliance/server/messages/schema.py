"""What a request to /v1/messages may say; see `appliance.server.schema` for how such structures work.

Source: Anthropic's API reference, as the types of its Python package write it down. A block has one structure
whatever its type, so that a type that is not served is refused by its name, not by one of its fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Raw

from appliance.server.schema import NULL


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """Where Anthropic's cache would end a prefix. Here the whole prompt is looked up, marked or not."""

    type: Literal["ephemeral"]
    ttl: str | None = None
    scope: str | None = None


class Block(msgspec.Struct, forbid_unknown_fields=True):
    """A piece of a message's content, or of a tool's result."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = NULL
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    caller: Raw = NULL
    citations: Raw = NULL
    toolset_name: Raw = NULL
    # Of blocks that are not served.
    source: Raw = NULL
    title: Raw = NULL
    context: Raw = NULL
    file_id: Raw = NULL
    tool_name: Raw = NULL


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool of the client's own."""

    name: str
    input_schema: Raw = NULL
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    allowed_callers: Raw = NULL
    defer_loading: bool | None = None
    input_examples: Raw = NULL


class ToolKind(msgspec.Struct):
    """A look at a tool before it is read: Anthropic's own have other fields, and are refused by name."""

    type: str | None = None
    name: str | None = None


class ToolChoice(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: Raw


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None
    task_budget: Raw = NULL


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str | None = None


class Prompt(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What /v1/messages and /v1/messages/count_tokens share."""

    model: str
    messages: list[Message]
    system: str | list[Block] | None = None
    tools: list[Raw] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    context_management: Raw = NULL
    mcp_servers: Raw = NULL
    speed: Raw = NULL
    thread: Raw = NULL


class CountRequest(Prompt, forbid_unknown_fields=True, kw_only=True):
    pass


class MessageRequest(Prompt, forbid_unknown_fields=True, kw_only=True):
    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Raw = NULL
    diagnostics: Raw = NULL
    inference_geo: Raw = NULL
