"""What the structures of requests do not say themselves: the types behind `Raw`, ranges and refusals.

Ranges and refusals come from the tables that requests are held against; types from what the code decodes.
"""

from __future__ import annotations

from typing import Any

from appliance.server import embeddings, fields, rerank, rows, schema, tools
from appliance.server.messages import request as message_request
from appliance.server.messages import schema as messages
from appliance.server.openapi import answers
from appliance.server.openapi.schemas import Notes, Range, Schema
from appliance.server.responses import request as response_request
from appliance.server.responses import schema as responses

_ANY: Schema = {"description": "Taken, and without influence on the answer."}
_OBJECT: Schema = {"type": "object"}
_SCHEMA: Schema = {"type": "object", "description": "A JSON Schema."}
_NONE: tuple[Any, ...] = ()
_SEED: Schema = {"minimum": -rows.SEED_BITS, "maximum": rows.SEED_BITS - 1}
_STOPS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": fields.MAX_STOPS},
    ]
}
_BIAS: Schema = {
    "type": "object",
    "description": "From token id to what is added to its logit.",
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}
_TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
_SWITCHES: Schema = {
    "type": "object",
    "properties": {"enable_thinking": {"type": "boolean"}, "reasoning_effort": {"type": "string"}},
    "additionalProperties": False,
}
_PROMPT: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 1,
            "maxItems": rows.MAX_PROMPTS,
        },
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "minItems": 1,
            "maxItems": rows.MAX_PROMPTS,
        },
    ]
}
_NULL: Schema = {"type": "null"}
_SAID: Schema = {"type": ["string", "array"]}
_ROLES: tuple[Schema, ...] = (
    {
        "properties": {
            "role": {"enum": ["system", "developer", "user"]},
            "content": _SAID,
            **dict.fromkeys(("tool_call_id", "tool_calls", "reasoning_content"), _NULL),
        },
        "required": ["content"],
    },
    {
        "properties": {"role": {"enum": ["assistant"]}, "content": _SAID, "tool_call_id": _NULL},
        "required": ["content"],
    },
    {
        "description": "A call without a word.",
        "properties": {"role": {"enum": ["assistant"]}, "tool_call_id": _NULL, "tool_calls": {"minItems": 1}},
        "required": ["tool_calls"],
    },
    {
        "properties": {
            "role": {"enum": ["tool"]},
            "content": _SAID,
            "tool_call_id": {"type": "string"},
            **dict.fromkeys(("tool_calls", "reasoning_content"), _NULL),
        },
        "required": ["content", "tool_call_id"],
    },
)
_WORD: Schema = {"enum": ["auto", "none", "required"]}
_DIRECT = (["direct"],)


class PlainFormat(schema.PlainText):
    """Any text, or any JSON object."""


def _nothing(*names: str, **values: tuple[Any, ...]) -> dict[str, tuple[Any, ...]]:
    return {**dict.fromkeys(names, _NONE), **values}


def _of(kind: type, ranges: dict[str, Range]) -> dict[str, Range]:
    known: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
    return {name: limits for name, limits in ranges.items() if name in known}


def _generate(kind: type, bounds: dict[str, Schema], **raw: Any) -> Notes:
    return Notes(
        ranges=_of(kind, fields.RANGES),
        nothing=schema.NOTHING,
        raw={
            "stop": _STOPS,
            "logit_bias": _BIAS,
            "metadata": _TEXTS,
            "response_format": (PlainFormat, schema.JsonFormat, schema.RegexFormat, schema.LarkFormat),
            **raw,
        },
        bounds={"seed": _SEED, **bounds},
    )


def _response(kind: type, bounds: dict[str, Schema], **raw: Any) -> Notes:
    return Notes(
        ranges=_of(kind, response_request.RANGES),
        nothing=response_request.NOTHING,
        raw={
            "input": (
                {"type": "string", "minLength": 1},
                list[responses.Item],
            ),
            "tools": list[responses.Tool],
            "tool_choice": (_WORD, responses.ToolName, responses.AllowedTools),
            **raw,
        },
        bounds=bounds,
    )


NOTES: dict[type, Notes] = {
    schema.ChatRequest: _generate(
        schema.ChatRequest,
        {"messages": {"minItems": 1}},
        tools=list[schema.Tool],
        tool_choice=(_WORD, schema.NamedTool, schema.AllowedTools),
        chat_template_kwargs=_SWITCHES,
    ),
    schema.CompletionRequest: _generate(schema.CompletionRequest, {}, prompt=_PROMPT),
    PlainFormat: Notes(bounds={"type": {"enum": ["text", "json_object"]}}),
    schema.Part: Notes(
        nothing=_nothing("image_url", "input_audio", "file", "refusal"),
        bounds={"type": {"enum": ["text"]}, "text": {"type": "string"}},
        variants=({"required": ["text"]},),
    ),
    schema.CalledFunction: Notes(raw={"parsed_arguments": _ANY}),
    schema.ToolCall: Notes(
        nothing=_nothing("custom"),
        bounds={"type": {"enum": ["function"]}},
        variants=({"required": ["function"]},),
    ),
    schema.RegexFormat: Notes(bounds={"pattern": {"minLength": 1}}),
    schema.LarkFormat: Notes(bounds={"grammar": {"minLength": 1}}),
    schema.Message: Notes(
        raw={"parsed": _ANY},
        nothing=_nothing("refusal", "annotations", "audio", "function_call"),
        variants=_ROLES,
    ),
    schema.Function: Notes(
        raw={"parameters": _SCHEMA}, bounds={"name": {"pattern": f"^{tools.NAME.pattern}$"}}
    ),
    schema.JsonSchema: Notes(raw={"schema": _SCHEMA}),
    schema.StreamOptions: Notes(bounds={"include_obfuscation": {"enum": [None, False]}}),
    embeddings.EmbeddingRequest: Notes(bounds={"dimensions": {"minimum": 1}}),
    rerank.RerankRequest: Notes(
        bounds={
            "query": {"minLength": 1},
            "documents": {"minItems": 1, "maxItems": rerank.MOST},
            "top_n": {"minimum": 1},
        }
    ),
    messages.MessageRequest: Notes(
        ranges=_of(messages.MessageRequest, message_request.RANGES),
        nothing={**message_request.NOTHING, "thread": _NONE},
        raw={"tools": list[messages.Tool]},
        bounds={"messages": {"minItems": 1}},
    ),
    messages.CountRequest: Notes(
        nothing={**message_request.NOTHING, "thread": _NONE},
        raw={"tools": list[messages.Tool]},
        bounds={"messages": {"minItems": 1}},
    ),
    messages.Block: Notes(
        raw={"input": _OBJECT},
        nothing=_nothing(
            "citations",
            "toolset_name",
            "source",
            "title",
            "context",
            "file_id",
            "tool_name",
            caller=({"type": "direct"},),
        ),
        bounds={"type": {"enum": ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]}},
    ),
    messages.Tool: Notes(
        raw={"input_schema": _SCHEMA},
        nothing=_nothing("input_examples", allowed_callers=_DIRECT),
        bounds={"name": {"pattern": f"^{tools.NAME.pattern}$"}},
    ),
    messages.Thinking: Notes(bounds={"type": {"enum": ["enabled", "adaptive", "disabled"]}}),
    messages.OutputFormat: Notes(raw={"schema": _SCHEMA}),
    messages.OutputConfig: Notes(nothing=_nothing("task_budget")),
    responses.ResponseRequest: _response(
        responses.ResponseRequest,
        {"include": {"items": {"enum": [response_request.LOGPROBS, response_request.SEALED]}}},
        metadata={**_TEXTS, "maxProperties": response_request.MOST_PAIRS},
    ),
    responses.CountRequest: _response(responses.CountRequest, {}),
    responses.Item: Notes(
        nothing=_nothing("namespace", caller=({"type": "direct"},)),
        raw={"created_by": _ANY},
        bounds={"type": {"enum": ["message", "reasoning", "function_call", "function_call_output"]}},
    ),
    responses.Part: Notes(
        raw={"annotations": _ANY, "logprobs": _ANY},
        nothing=_nothing(
            "prompt_cache_breakpoint",
            "image_url",
            "file_id",
            "file_url",
            "file_data",
            "filename",
            "detail",
            "input_audio",
        ),
        bounds={"type": {"enum": ["input_text", "output_text", "reasoning_text", "summary_text", "refusal"]}},
    ),
    responses.Tool: Notes(
        raw={"parameters": _SCHEMA},
        nothing=_nothing("output_schema", allowed_callers=_DIRECT),
        bounds={"name": {"pattern": f"^{tools.NAME.pattern}$"}, "type": {"enum": ["function"]}},
    ),
    responses.Format: Notes(raw={"schema": _SCHEMA}),
    responses.Text: Notes(nothing=_nothing(verbosity=("medium",))),
    responses.Reasoning: Notes(nothing=response_request.REASONING),
    responses.StreamOptions: Notes(bounds={"include_obfuscation": {"enum": [None, False]}}),
}

# What structures are called in the document where their own names say too little, or are taken.
NAMES: dict[type, str] = {
    PlainFormat: "PlainFormat",
    messages.Message: "AnthropicTurn",
    messages.Block: "AnthropicBlock",
    messages.Tool: "AnthropicTool",
    messages.ToolChoice: "AnthropicToolChoice",
    messages.Thinking: "AnthropicThinking",
    messages.OutputConfig: "AnthropicOutputConfig",
    messages.OutputFormat: "AnthropicOutputFormat",
    messages.CacheControl: "AnthropicCacheControl",
    messages.Metadata: "AnthropicMetadata",
    messages.CountRequest: "CountMessageRequest",
    responses.Item: "ResponseItem",
    responses.Part: "ResponsePart",
    responses.Tool: "ResponseTool",
    responses.ToolName: "ResponseToolName",
    responses.AllowedTools: "ResponseAllowedTools",
    responses.Format: "ResponseFormat",
    responses.Text: "ResponseText",
    responses.Reasoning: "ResponseReasoning",
    responses.StreamOptions: "ResponseStreamOptions",
    responses.CountRequest: "CountResponseRequest",
    answers.CalledFunction: "FunctionCalled",
    answers.Ranked: "RankedDocument",
}
