"""Frozen snapshots of what is. Always measured, never remembered.

`Observed` is the whole input about the world that planning may use. It is built afresh for each pass
by `Effects.observe`; times are seconds on the loop's own monotonic clock, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from reconciler.readings import Level, Service


def empty() -> Mapping[str, Any]:
    """A mapping that nobody can write to (a factory: before Python 3.12 it is no valid default)."""
    return MappingProxyType({})


class EngineState(StrEnum):
    """The life of one engine process.

    starting ─▶ loading ─▶ probing ─▶ ready ─▶ draining ─▶ stopping ─▶ exited
        └──────────┴──────────┴─────────┴──────────┴───────────┘ (exit, crash or hang)
    """

    STARTING = "starting"  # process spawned, not yet said hello
    LOADING = "loading"  # reading weights, first compile
    PROBING = "probing"  # answering its probe prompt
    READY = "ready"  # may take traffic
    DRAINING = "draining"  # takes no new request, finishes what it has
    STOPPING = "stopping"  # told to exit, not yet gone
    EXITED = "exited"  # the process is gone and reaped


@dataclass(frozen=True)
class Failure:
    """Why an engine ended or could not start.

    reason: exit (a status nobody asked for), crash (a signal), hang (no progress, killed by us),
    load_failed, probe_failed, oom (killed for memory), superseded is not a failure.
    permanent: the same files and fields cannot do better, so no retry until inputs change.
    """

    reason: Literal["exit", "crash", "hang", "load_failed", "probe_failed", "oom", "download_failed"]
    message: str
    code: str = "engine_failed"
    permanent: bool = False


@dataclass(frozen=True)
class Limits:
    """What an engine runs under without a reload. `context` counts prompt plus output tokens."""

    context: int
    context_declared: int | None = None
    concurrency: int = 8
    prefill_chunk: int = 640
    prefill_auto: bool = True  # prefill_chunk is an upper bound, and the engine chooses by load
    sampling: Mapping[str, Any] = field(
        default_factory=empty
    )  # defaults: temperature, top_p, top_k, ..., max_tokens
    force: bool = False
    enable_thinking: bool = True
    memory_bytes: int = 0  # what MLX may hold in this engine, requests are admitted by it; 0: no limit
    workspace_bytes: int = 0  # of that, kept free for a chunk of prompt at full context
    buffer_cache_bytes: int = 2**30  # freed buffers MLX may keep; 0 gives all back
    wired_bytes: int = 0  # macOS: wired into physical memory; 0: none
    cache_memory_bytes: int = 0  # prompt cache in memory, within memory_bytes; 0 drops what is there
    cache_disk_bytes: int = 0  # prompt cache on disk, over all models; 0: the disk is not used
    thinking_budget: int | None = None  # most tokens of thinking, where a request says nothing
    tool_parser: str = "auto"  # how tool calls are read; auto: as the chat template tells


Role = Literal["chat", "embedding", "rerank"]


@dataclass(frozen=True)
class EngineInfo:
    """What a loaded engine said of itself."""

    model_type: str
    load_s: float
    weights_bytes: int
    active_bytes: int
    context_max: int
    batchable: bool
    batch_why: str | None
    backend: str
    working_set_bytes: int = 0  # Metal's recommended working set; 0 where there is no Metal
    thinks: bool = False  # its template can open a part for thinking
    tool_parser: str | None = None  # the one that auto stands for; None: it cannot call tools
    role: Role = "chat"
    dimensions: int | None = None  # of an embedding


@dataclass(frozen=True)
class CacheObs:
    """An engine's prompt cache, as its last beat told. Counters are since the engine's start.

    A request is a hit of the slowest tier that gave it something, else a miss. disk: off also means not
    opened yet. why: of failed.
    """

    memory_bytes: int = 0  # lent: they go when something else needs the room
    disk_bytes: int = 0  # of this model
    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    damaged: int = 0
    tokens: int = 0  # prompt tokens that were not computed again
    disk: Literal["off", "ready", "failed"] = "off"
    why: str | None = None


@dataclass(frozen=True)
class WarmupObs:
    """An engine's way through `models.*.warmup`, between probe and traffic. failed: name and why."""

    names: tuple[str, ...] = ()
    done: int = 0
    begun: bool = False  # the probe is over
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def running(self) -> str | None:
        """The one that is read now."""
        return self.names[self.done] if self.begun and self.done < len(self.names) else None


@dataclass(frozen=True)
class EngineObs:
    id: str  # unique for ever: "<model>-<counter>"
    model: str  # the key in the spec
    digest: str  # Model.digest it was started from
    state: EngineState
    since: float
    own_digest: str = ""  # Model.own_digest then: the key of its failures
    pid: int | None = None
    leases: int = 0
    limits: Limits | None = None
    info: EngineInfo | None = None
    failure: Failure | None = None
    stop_reason: str | None = None  # set when we asked it to go: "superseded", "drained", "unload", ...
    progress: tuple[int, int] = (0, 0)  # bytes of weights read, of total
    memory_bytes: int = 0  # larger of MLX's figure and the process's footprint
    forecast_bytes: int = 0  # what its Spawn said it would need; counts until it has loaded
    released_bytes: int | None = None  # measured when it was gone
    waiting: int = 0  # of its leases, those that it has not begun
    saturation: float | None = None  # share of the last seconds that the device worked for it
    start_s: float | None = None  # from spawn to ready
    cache: CacheObs = CacheObs()
    warmup: WarmupObs = WarmupObs()
    template: str = ""  # ModelFiles.template when it was started
    tool_failures: int = 0  # tool calls since its start that did not parse, and came as text

    @property
    def parser(self) -> str | None:
        """How its tool calls are read; None: not at all."""
        chosen = "auto" if self.limits is None else self.limits.tool_parser
        return chosen if chosen != "auto" or self.info is None else self.info.tool_parser

    @property
    def firm_bytes(self) -> int:
        """memory_bytes less what is only lent to the prompt cache and goes when a newcomer needs it.

        Of an engine that ends, nothing goes before all of it does.
        """
        if self.state in (EngineState.STOPPING, EngineState.EXITED):
            return self.memory_bytes
        return max(0, self.memory_bytes - self.cache.memory_bytes)


@dataclass(frozen=True)
class ModelFiles:
    """What lies on disk for one `source` (and revision, and adapter).

    state: absent (hub model, not complete), downloading, present, broken (message says why). permanent:
    only other files or another spec help; a download that ended with permanent is not tried again, one
    without is, after a back-off.
    config: the parsed config.json. headers: total bytes of tensors as the safetensors headers say.
    asked: somebody beside the loop has it downloaded: not the loop's to cancel, nor to rely on.
    """

    state: Literal["absent", "downloading", "present", "broken"]
    path: str | None = None
    message: str | None = None
    permanent: bool = False
    weights_bytes: int = 0
    parameters: int = 0
    adapter_bytes: int = 0
    config: Mapping[str, Any] = field(default_factory=empty)
    progress: tuple[int, int] = (0, 0)
    fingerprint: str = ""  # changes when the files change; lets a permanent failure be retried then
    asked: bool = False
    template: str = ""  # digest of the text in template.file; "" where none is named


@dataclass(frozen=True)
class ListenerObs:
    """A public socket. failed: could not be bound; closing: takes nothing new, streams go on."""

    host: str
    port: int
    state: Literal["open", "closing", "failed"]
    message: str | None = None
    since: float = 0.0


@dataclass(frozen=True)
class Route:
    """Where requests for one model go.

    ready: to `engine`. wait: in the queue, a load or swap is under way. wake: in the queue, and the
    first one sets `Observed.wanted` (residency on_demand). refuse: answered at once with `code`.
    """

    model: str
    status: Literal["ready", "wait", "wake", "refuse"]
    engine: str | None = None  # of refuse: the one that answers, once it takes requests again
    concurrency: int = 1
    throttled: bool = False  # new sessions wait while others run
    depth: int | None = None  # most requests that may wait for this model; None: RoutingTable.depth
    code: str = "no-model-loaded"
    message: str = ""
    retry_after: float | None = None
    role: Role = "chat"  # what the model is for


@dataclass(frozen=True)
class RoutingTable:
    """The router's whole orders, replaced in one assignment.

    active: the model that answers "default" and unnamed requests; None: refused with no-model-loaded.
    names: key, alias or source -> key of `routes`.
    """

    active: str | None = None
    names: Mapping[str, str] = field(default_factory=empty)
    routes: Mapping[str, Route] = field(default_factory=empty)
    depth: int = 64
    timeout: float = 60.0
    reason: str = ""  # why there is no active model, for people
    drained: str = ""  # why no new session is taken (`lmx drain`); "" takes them
    sessions_until: float = 0.0  # while drained, known sessions are served until then, wall clock


@dataclass(frozen=True)
class MemoryObs:
    """Bytes. budget_bytes is resolved from the spec by `forecast.budget`; total is the machine's."""

    total_bytes: int
    available_bytes: int
    used_bytes: int = 0  # ours: parent and engines
    source: str = ""  # where total_bytes comes from: cgroup, physical memory, Metal working set
    auto_bytes: int = 0  # what `memory.budget: auto` means here; 0: three quarters of the total
    system: Level = "normal"  # pressure as the system itself sees it
    system_why: str = ""
    heat: str | None = None  # one of names.HEAT; None: cannot be measured here
    own_bytes: int = 0  # of used_bytes: the appliance's own process
    at: float | None = None  # when it was measured, on the clock of `Observed.now`; None: just then


@dataclass(frozen=True)
class OverrideObs:
    """One imperative admin call, held as a visible layer over the spec until cleared."""

    model: str  # "" for the whole appliance
    kind: Literal["load", "unload", "drain", "suspend"]
    at: float  # wall clock, seconds since the epoch
    # own_digest of that model plus `active` when it was made; a change clears it. suspend: the digest of the
    # spec that was in force, "" for none; only `lmx resume` clears it
    spec_digest: str
    until: float = 0.0  # drain: known sessions are served until then, wall clock
    by: str = ""  # who asked


@dataclass(frozen=True)
class Observed:
    """now: when this was measured, on the clock of `Effects.now`. The loop plans on nothing that is older
    than its own last step, so a snapshot must not claim to be younger than it is.
    """

    now: float
    engines: tuple[EngineObs, ...] = ()
    files: Mapping[str, ModelFiles] = field(default_factory=empty)  # Model.digest -> its files
    listeners: tuple[ListenerObs, ...] = ()
    table: RoutingTable = field(default_factory=RoutingTable)
    memory: MemoryObs = field(default_factory=lambda: MemoryObs(0, 0))
    wanted: Mapping[str, float] = field(
        default_factory=empty
    )  # on_demand models with a waiting request -> since when
    last_used: Mapping[str, float] = field(default_factory=empty)  # engine id -> when its last request ended
    service: Mapping[str, Service] = field(default_factory=empty)  # model -> how it has served
    cache_problem: str | None = None  # why the folder of the disk cache cannot be used
    keys_problem: str | None = None  # why the API keys of the spec cannot be read
