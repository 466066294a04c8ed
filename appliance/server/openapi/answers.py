"""What the server answers: structures for the document, and for tests that hold answers against it.

Further members may come with any of them. The shapes of OpenAI, Anthropic and Cohere are told as far as a
client needs them; their own references say the rest.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class ErrorBody(msgspec.Struct, kw_only=True):
    """code is stable; the message may change. Some codes come with figures of their own."""

    message: str
    type: str
    param: str | None
    code: str


class Error(msgspec.Struct, kw_only=True):
    error: ErrorBody


class AnthropicErrorBody(msgspec.Struct, kw_only=True):
    type: str
    message: str
    code: str
    param: str | None


class AnthropicError(msgspec.Struct, kw_only=True):
    type: Literal["error"]
    error: AnthropicErrorBody
    request_id: str


# --- OpenAI ---------------------------------------------------------------------------------------


class Usage(msgspec.Struct, kw_only=True):
    """In tokens. `prompt_tokens_details.cached_tokens`: those of the prompt that were known already."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None
    completion_tokens_details: dict[str, int] | None = None


class CalledFunction(msgspec.Struct, kw_only=True):
    """arguments: JSON, as a string."""

    name: str
    arguments: str


class Call(msgspec.Struct, kw_only=True):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class ChatChoice(msgspec.Struct, kw_only=True):
    """lmx_warning: what went wrong without an error, such as a call that could not be read."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: dict[str, Any] | None = None
    lmx_warning: str | None = None


class ChatAnswer(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: dict[str, Any]
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatChunk(msgspec.Struct, kw_only=True):
    """One event of a stream; the last is `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextChoice(msgspec.Struct, kw_only=True):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: dict[str, Any] | None = None


class TextAnswer(msgspec.Struct, kw_only=True):
    """An answer, and with a null `finish_reason` an event of a stream; the last event is `[DONE]`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Response(msgspec.Struct, kw_only=True):
    """output: items of the types message, reasoning and function_call."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    output: list[dict[str, Any]]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: dict[str, Any] | None


class ResponseEvent(msgspec.Struct, kw_only=True):
    """type: response.created, response.output_text.delta and so on, as OpenAI's reference lists them."""

    type: str
    sequence_number: int


class ResponseDeleted(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["response"]
    deleted: bool


class ItemPage(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class InputTokens(msgspec.Struct, kw_only=True):
    object: Literal["response.input_tokens"]
    input_tokens: int


class Embedding(msgspec.Struct, kw_only=True):
    """embedding: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class TokensRead(msgspec.Struct, kw_only=True):
    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: TokensRead


class Ranked(msgspec.Struct, kw_only=True):
    """index: of the document in the request."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class Ranking(msgspec.Struct, kw_only=True):
    """results: the most relevant first."""

    id: str
    model: str
    results: list[Ranked]
    usage: TokensRead


# --- Anthropic ------------------------------------------------------------------------------------


class AnthropicMessage(msgspec.Struct, kw_only=True):
    """content: blocks of the types text, thinking and tool_use."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: (
        Literal["end_turn", "max_tokens", "model_context_window_exceeded", "stop_sequence", "tool_use"] | None
    )
    stop_sequence: str | None
    usage: dict[str, Any]


class AnthropicEvent(msgspec.Struct, kw_only=True):
    """type: message_start, content_block_delta and so on, as Anthropic's reference lists them."""

    type: str


class CountedTokens(msgspec.Struct, kw_only=True):
    input_tokens: int


# --- what is served -------------------------------------------------------------------------------


class ModelEntry(msgspec.Struct, kw_only=True):
    """With `anthropic-version` among the headers, in Anthropic's shape. Others of its members: aliases, role,
    state, and `context`, the ceiling in tokens."""

    id: str


class ModelList(msgspec.Struct, kw_only=True):
    data: list[ModelEntry]


class SkillList(msgspec.Struct, kw_only=True):
    object: Literal["list"]
    data: list[dict[str, Any]]


class Alive(msgspec.Struct, kw_only=True):
    status: Literal["ok", "failed"]
    reason: str | None = None


class ReadyAnswer(msgspec.Struct, kw_only=True):
    ready: bool
    model: str | None = None
    reason: str | None = None
    message: str | None = None


class Status(msgspec.Struct, kw_only=True, rename={"try_": "try"}):
    """The whole is told in docs/operating.md."""

    name: str
    version: str
    uptime_s: float
    summary: Literal["Suspended", "NotReady", "Stalled", "Reconciling", "Degraded", "Ready"]
    generation: int
    conditions: list[dict[str, Any]]
    active: dict[str, Any]
    models: dict[str, Any]
    memory: dict[str, Any] | None = None
    traffic: dict[str, Any]
    plan: list[dict[str, Any]]
    history: list[dict[str, Any]]
    events: list[dict[str, Any]]
    overrides: list[dict[str, Any]] = []
    try_: dict[str, Any] | None = None


# --- the operator ---------------------------------------------------------------------------------


class AdminModel(msgspec.Struct, kw_only=True):
    """declared false: in the Hub's cache, but in no spec."""

    id: str
    declared: bool
    source: str
    revision: str | None
    loaded: bool
    state: str
    vram_gb: float


class AdminModels(msgspec.Struct, kw_only=True):
    models: list[AdminModel]


class Loaded(msgspec.Struct, kw_only=True):
    success: bool
    model: str
    load_time_ms: int
    vram_gb: float


class Unloaded(msgspec.Struct, kw_only=True):
    success: bool
    model: str
    freed_vram_gb: float


class PullEvent(msgspec.Struct, kw_only=True):
    """Sizes in bytes, rate in bytes a second, eta in seconds. `event: error` carries an error instead."""

    model: str
    state: Literal["downloading", "done"]
    done: int
    total: int
    rate: float
    eta: float | None
    file: str
    message: str


class AdminEvent(msgspec.Struct, kw_only=True):
    """type: one of docs/reference/events.md, or `telemetry`, once a second."""

    type: str


class Done(msgspec.Struct, kw_only=True):
    success: bool


class Cleared(msgspec.Struct, kw_only=True):
    success: bool
    cleared: Any


class Drained(msgspec.Struct, kw_only=True):
    success: bool
    session_timeout_s: float
    in_flight: int
    queued: int


class Sessions(msgspec.Struct, kw_only=True):
    sessions: list[dict[str, Any]]


class SessionsDropped(msgspec.Struct, kw_only=True):
    success: bool
    dropped: list[dict[str, Any]]


class Configuration(msgspec.Struct, kw_only=True):
    """spec: the effective one, defaults filled in; secrets by reference. With `origins=true`, origins: from
    the dotted path of each leaf to where its value comes from; effective: what bounds it now, and why."""

    generation: int
    digest: str | None
    spec: dict[str, Any]
    origins: dict[str, Any] = {}
    effective: dict[str, Any] = {}
    in_force: dict[str, Any] = {}


class Tried(msgspec.Struct, kw_only=True, rename={"try_": "try"}):
    """try: what is tried now, its text (`spec`) and the edit that makes the file say so (`diff`). ended: why
    and when the last one ended. Times are seconds since the epoch."""

    try_: dict[str, Any] | None
    ended: dict[str, Any] | None


class TryBegun(msgspec.Struct, kw_only=True, rename={"try_": "try"}):
    """As `Tried`. kept: what the text does not mention and only the file may say, so that it stays."""

    success: bool
    try_: dict[str, Any] | None
    ended: dict[str, Any] | None
    kept: list[dict[str, Any]] = []


class Rollback(msgspec.Struct, kw_only=True):
    """diff: the edit, as lines of a unified diff. left_out: what a try cannot take back and only the edit
    does. in_force: what would be tried runs already."""

    generation: int
    from_generation: int
    diff: list[str]
    changes: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    in_force: bool


class RolledBack(Rollback, kw_only=True, rename={"try_": "try"}):
    success: bool
    try_: dict[str, Any] | None
    ended: dict[str, Any] | None
    kept: list[dict[str, Any]] = []


class Suspended(msgspec.Struct, kw_only=True):
    """held_back: the file says something that waits."""

    success: bool
    suspended: bool
    held_back: bool


class Resumed(msgspec.Struct, kw_only=True):
    """suspended: still, because the file says so."""

    success: bool
    cleared: int
    suspended: bool


class PlanLines(msgspec.Struct, kw_only=True):
    plan: list[dict[str, Any]]
