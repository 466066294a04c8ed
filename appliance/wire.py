"""What the parent and an engine process say to each other.

One Unix socket pair per engine. A frame is a four-byte little-endian length and one
msgpack-encoded message; the `t` field names the message type. The engine sends at most one `Step`
per decode step, whatever the number of rows, so the cost of the wire does not grow with the batch.

    parent                                   engine process
      | -- Load ---------------------------->  |   read weights, check what the caches can do
      | <- Hello, Progress*, Loaded | LoadFailed
      | -- Configure ----------------------->  |   ceilings and defaults; may be sent again at any time
      | -- Submit (rid) -------------------->  |   render, tokenise, check the ceiling
      | <- Accepted (rid) | Refused (rid)      |
      | <- Step {rows: [(rid, text, ...)]}     |   until a row carries `finish`
      | -- Cancel (rid) -------------------->  |   the row is free within a step or two
      | -- ListSessions, DropSession ------->  |   answered by Sessions with the same number
      | -- Count, Embed, Rank -------------->  |   answered by Counted, Embedded, Ranked or Unanswered
      | <- Beat, twice a second                |   from a thread of its own: stage and progress counter
      | -- Shutdown ------------------------>  |   exit status 0

Nothing executable ever crosses this wire: msgpack only, no pickle.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

PROTOCOL = 4
MAX_FRAME = 64 * 1024 * 1024  # twice the default body limit: a request is always smaller
HEADER = struct.Struct("<I")

# How an engine process ends. Any other status, or a signal, is a crash it could not speak about, such as
# a Metal out-of-memory abort.
EXIT_OK = 0  # asked to, by Shutdown
EXIT_PARENT_GONE = 10  # the connection closed: nobody is left to serve
EXIT_PROTOCOL = 31  # a frame that is no message, or a message out of order
EXIT_LOAD_FAILED = 12  # LoadFailed has been sent and says why
EXIT_CRASHED = 13  # an error in the engine's own loop; the traceback is on its stderr

Stage = Literal["start", "load", "compile", "prefill", "decode", "idle"]
Finish = Literal["stop", "length", "cancelled", "error"]


class Message(msgspec.Struct, tag_field="t", omit_defaults=True, frozen=True):
    """Base of every message."""


# --- parent to engine -----------------------------------------------------------------------------


class Sampling(msgspec.Struct, omit_defaults=True, frozen=True):
    """Sampling fields. `None` means: not said. Request values fall back to the model's defaults."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None


class Grammar(msgspec.Struct, omit_defaults=True, frozen=True):
    """What an answer must look like.

    kind: `json_object` (any object, `text` is empty), `json_schema` (text: the schema as JSON), `regex`,
    `lark` (llguidance's own dialect of it).
    """

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = ""


class Load(Message, tag="load", frozen=True):
    """Load one model. `path` is a local folder that the parent has already found and checked."""

    model: str
    path: str
    adapter: str | None = None
    trust_remote_code: bool = False
    kv_bits: int | None = None  # 4 | 8: keys and values quantised
    cache_path: str | None = None  # folder of the prompt cache's disk tier, the same for all models
    role: Literal["chat", "embedding", "rerank"] = "chat"
    chat_template: str | None = None  # the operator's own, instead of the model's


class Configure(Message, tag="configure", frozen=True):
    """Limits and defaults that change without a reload. `context` counts prompt plus output tokens."""

    context: int  # effective ceiling
    context_declared: int | None = None  # what the spec promised, for error messages; None: auto
    concurrency: int = 8
    prefill_chunk: int = 640
    sampling: Sampling = Sampling()
    force: bool = False  # the model's own sampling wins over the request's
    enable_thinking: bool = True
    memory: int = 0  # bytes that MLX may hold; a request starts only if its batch fits; 0: no limit
    workspace: int = 0  # bytes of that, kept free for a chunk of prompt at full context
    buffer_cache: int = 2**30  # bytes of freed buffers MLX may keep; 0: give all back now and keep none
    wired: int = 0  # bytes MLX may wire into physical memory (Metal only); 0: none
    prefill_auto: bool = True  # `prefill_chunk` is an upper bound, and the engine chooses by load
    cache_memory: int = 0  # bytes of prompt cache in memory, within `memory`; 0: none, and drop what is there
    cache_disk: int = 0  # bytes of prompt cache on disk, over all models; 0: the disk is not used
    thinking_budget: int | None = None  # most tokens of thinking, where a request says nothing
    tool_parser: str = "auto"  # how tool calls are read: auto, or the name of one of mlx-lm's parsers


class Submit(Message, tag="submit", frozen=True):
    """One row of generation. Exactly one of `messages` and `prompt` is set."""

    rid: int
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    sampling: Sampling = Sampling()
    stop: list[str] = []
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    template_kwargs: dict[str, Any] | None = None
    ignore_eos: bool = False  # benchmarks only: run to max_tokens
    caller: str = ""  # who shares fairly with others: a hash of the API key, never the key
    scope: str = ""  # whose cached prompts may be used; empty: everybody's
    session: str | None = None  # the conversation's name: its cache gives way last
    # Of chats only. Messages are as Chat Completions writes them: `tool_calls` and `tool_call_id` too.
    tools: list[dict[str, Any]] | None = None  # {"type": "function", "function": {name, parameters, ...}}
    tool_choice: Literal["auto", "none", "required"] = "auto"
    tool_names: list[str] | None = None  # only these may be called; with `required` and one name: that one
    parallel_tool_calls: bool = True
    thinking_budget: int | None = None
    continue_final: bool = False  # the last message is the beginning of the answer
    # Of both.
    grammar: Grammar | None = None
    logprobs: int | None = None  # None: none; else how many alternatives to each token, from 0


class Cancel(Message, tag="cancel", frozen=True):
    """Give a request up. To an encoder, which has no Submit: `rid` is the number of an Embed or Rank, and
    no answer comes."""

    rid: int


class ListSessions(Message, tag="list_sessions", frozen=True):
    """Answered by Sessions with the same number."""

    number: int


class DropSession(Message, tag="drop_session", frozen=True):
    """Forget one named session, or all of them, in both tiers. Answered by Sessions: what was dropped."""

    number: int
    name: str | None = None  # None: all
    scope: str | None = None  # None: whatever the scope


class Count(Message, tag="count", frozen=True):
    """How many tokens a prompt has. Answered by Counted or Unanswered. `submit.rid` means nothing."""

    number: int
    submit: Submit


class Embed(Message, tag="embed", frozen=True):
    """Vectors of texts, from an engine whose role is `embedding`. Answered by Embedded or Unanswered."""

    number: int
    inputs: list[str | list[int]]
    dimensions: int | None = None  # the first so many, normalised again; None: all
    truncate: bool = False  # too long a text is cut at its end; else the whole request is refused
    caller: str = ""


class Rank(Message, tag="rank", frozen=True):
    """How well documents answer a query, from an engine whose role is `rerank`. Answered by Ranked or
    Unanswered."""

    number: int
    query: str
    documents: list[str]
    instruction: str | None = None
    truncate: bool = False
    caller: str = ""


class Shutdown(Message, tag="shutdown", frozen=True):
    """Finish the current step, then exit with status 0."""


# --- engine to parent -----------------------------------------------------------------------------


class Hello(Message, tag="hello", frozen=True):
    pid: int
    protocol: int = PROTOCOL


class Progress(Message, tag="progress", frozen=True):
    """Bytes of weights read so far, of `total`."""

    done: int
    total: int


class Loaded(Message, tag="loaded", frozen=True):
    model_type: str
    load_s: float
    weights_bytes: int  # as MLX counts the parameters it holds
    active_bytes: int  # mx.get_active_memory() after the first forward pass
    context_max: int  # the model's own limit, tokens
    batchable: bool
    batch_why: str | None  # when not batchable: which cache cannot, in words
    backend: str  # "metal" | "cpu" | "cuda"
    blas: str | None = None
    working_set_bytes: int = 0  # Metal's max_recommended_working_set_size; 0 where there is no Metal
    role: Literal["chat", "embedding", "rerank"] = "chat"
    dimensions: int | None = None  # of an embedding
    thinks: bool = False  # its template can open a part for thinking
    tool_parser: str | None = None  # the one found by its template; None: it cannot call tools


class LoadFailed(Message, tag="load_failed", frozen=True):
    """`permanent`: trying the same files again cannot help."""

    # missing_weights | corrupt_weights | unsupported_model | bad_tokenizer | bad_template | bad_adapter
    # | out_of_memory | failed
    code: str
    message: str
    permanent: bool


class Accepted(Message, tag="accepted", frozen=True):
    """The request starts now. Until then it may be taken back and run elsewhere."""

    rid: int
    prompt_tokens: int
    cached_tokens: int = 0  # of them, restored from the prompt cache
    cached_from: Literal["memory", "disk"] | None = None  # the slowest tier that gave something


class Refused(Message, tag="refused", frozen=True):
    """The request cannot run on this engine; `code` is one of the API's error codes."""

    rid: int
    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] | None = None


class CallPart(msgspec.Struct, array_like=True, frozen=True):
    """A piece of a tool call. The first of each index has id and name. arguments: the next piece of JSON."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Logprob(msgspec.Struct, array_like=True, frozen=True):
    """One generated token. token: its bytes. top: the likeliest at its place, best first."""

    token: bytes
    logprob: float
    top: list[tuple[bytes, float]] = []


class More(msgspec.Struct, array_like=True, frozen=True):
    """What few rows have. Within one row the order is: reasoning, text, calls; another order takes two rows.

    warning: what an operator or client should know, such as a tool call that does not parse and came as text.
    reasoning_tokens: so far, in all, with the marks around it; set wherever `reasoning` is, 0: not known.
    """

    reasoning: str = ""
    calls: list[CallPart] = []
    logprobs: list[Logprob] = []
    warning: str | None = None
    reasoning_tokens: int = 0


class Row(msgspec.Struct, array_like=True, frozen=True):
    """What one request got in one step. A step may hold several rows of one request, in order.

    text: new text, already detokenised, stop sequences taken out. May be empty on finish.
    tokens: completion tokens so far, the end-of-text token not counted in text but counted here.
    finish: set on the last row of a request. `message` says what went wrong for "error", and `code`, one of
        `errors.CODES`, what clients know it by; None: engine_failed.
    """

    rid: int
    text: str
    tokens: int
    finish: Finish | None = None
    message: str | None = None
    stop: str | None = None  # the stop string that matched, if one did
    more: More | None = None
    code: str | None = None


class Step(Message, tag="step", frozen=True):
    rows: list[Row]


class Counted(Message, tag="counted", frozen=True):
    number: int
    tokens: int


class Embedded(Message, tag="embedded", frozen=True):
    """vectors: little-endian float32, one row of `dimensions` after the other, in the order of the inputs."""

    number: int
    dimensions: int
    vectors: bytes
    tokens: int  # of all inputs, after truncation


class Ranked(Message, tag="ranked", frozen=True):
    """scores: 0 to 1, in the order of the documents."""

    number: int
    scores: list[float]
    tokens: int


class Unanswered(Message, tag="unanswered", frozen=True):
    """Count, Embed or Rank came to nothing; `code` is one of the API's error codes."""

    number: int
    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] | None = None


class Session(msgspec.Struct, omit_defaults=True, frozen=True):
    """A named conversation in the prompt cache."""

    name: str
    tokens: int
    used_at: float  # seconds since the epoch
    memory_bytes: int = 0
    disk_bytes: int = 0
    scope: str = ""


class Sessions(Message, tag="sessions", frozen=True):
    number: int
    sessions: list[Session]


class CacheUse(msgspec.Struct, omit_defaults=True, frozen=True):
    """The prompt cache's figures; the counters since start.

    A request counts as a hit of the slowest tier that gave it something, else as a miss; prompts too
    short to be worth keeping count as neither.
    """

    memory_bytes: int = 0
    disk_bytes: int = 0  # of this model's namespace
    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    damaged: int = 0  # files set aside
    tokens: int = 0  # prompt tokens restored
    disk: Literal["off", "ready", "failed"] = "off"
    why: str | None = None  # of "failed", in words, without contents


class Beat(Message, tag="beat", frozen=True):
    """Sent every 0.5 s by a thread that does nothing else.

    A beat proves that the process is scheduled; only `progress` proves that the model computes. It
    grows at each prefill chunk, decode step and loaded weight file. All bytes are MLX's own figures.
    """

    stage: Stage
    stage_s: float  # seconds in this stage without progress
    progress: int
    rows: int = 0
    waiting: int = 0  # requests not begun: tokenised or not, for want of a row or of memory
    busy_s: float = 0.0  # seconds since start in which the device worked
    reserved_bytes: int = 0  # what the running rows may still grow to, priced with their padding
    active_bytes: int = 0
    cache_bytes: int = 0
    peak_bytes: int = 0
    prompt_tokens: int = 0  # since start
    output_tokens: int = 0  # since start
    cache: CacheUse = CacheUse()
    tool_failures: int = 0  # tool calls since start that did not parse


ToEngine = Load | Configure | Submit | Cancel | ListSessions | DropSession | Count | Embed | Rank | Shutdown
FromEngine = (
    Hello
    | Progress
    | Loaded
    | LoadFailed
    | Accepted
    | Refused
    | Step
    | Sessions
    | Counted
    | Embedded
    | Ranked
    | Unanswered
    | Beat
)

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


class WireError(ValueError):
    """A frame that is too long, cut short, or not a known message. The connection is unusable."""


def encode(message: ToEngine | FromEngine) -> bytes:
    """One whole frame, length included."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME:
        raise WireError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME}")
    return HEADER.pack(len(body)) + body


def decode_to_engine(body: bytes | bytearray | memoryview) -> ToEngine:
    try:
        message: ToEngine = _to_engine.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # of half a frame, text may be anything
        raise WireError(f"not a message for an engine: {error}") from error
    return message


def decode_from_engine(body: bytes | bytearray | memoryview) -> FromEngine:
    try:
        message: FromEngine = _from_engine.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # of half a frame, text may be anything
        raise WireError(f"not a message from an engine: {error}") from error
    return message
