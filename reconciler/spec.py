"""What `lmx.yaml` may say: one class per map, one line per key.

Attribute names are the YAML keys. Durations are seconds, sizes bytes, percentages `Share`. Instances
are frozen: the loop compares and keeps them. What does not fit one field (names that must exist,
order between two limits) is in `loader/checks.py`; what has no code behind it yet in
`loader/not_yet.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator

from reconciler import fields, names
from reconciler.fields import leaf, section
from reconciler.kinds import (
    Choice,
    Either,
    Flag,
    Kind,
    Listed,
    Maps,
    Null,
    Number,
    Text,
    Whole,
)
from reconciler.quantities import Duration, Percentage, Size
from reconciler.units import Share

TOKENS = 16_777_216  # more than any model's context; stops typing errors, not models


def maybe(kind: Kind) -> Either:
    return Either(Null(), kind)


def auto_or(*kinds: Kind) -> Either:
    return Either(Choice("auto"), *kinds)


_flag = Flag()
_path = Text("a path", "~/.lmx")
_free_text = Text("text", "ping")
_part_or_size = Either(Percentage(), Size())
_context = auto_or(Whole(16, TOKENS, "131072"))


class Part(BaseModel):
    """Base of every map in the spec: frozen, and no key beside those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class Sampling(Part):
    temperature: Annotated[float, Number(0, 10, "0.7")] = leaf(0.7, "0 is greedy; higher is more random")
    top_p: Annotated[float, Number(0, 1, "0.95")] = leaf(
        0.95, "Keep the likeliest tokens up to this sum; 1 keeps all"
    )
    top_k: Annotated[int, Whole(0, 1_000_000, "40")] = leaf(
        0, "Keep this many of the likeliest tokens; 0 keeps all"
    )
    min_p: Annotated[float, Number(0, 1, "0.05")] = leaf(
        0.0, "Drop tokens under this part of the likeliest; 0 is off"
    )
    repetition_penalty: Annotated[float, Number(0.01, 10, "1.1")] = leaf(
        1.0, "Over 1 discourages repeats; 1 is off"
    )
    presence_penalty: Annotated[float, Number(-2, 2, "0.5")] = leaf(
        0.0, "Over 0 discourages tokens already used"
    )
    frequency_penalty: Annotated[float, Number(-2, 2, "0.5")] = leaf(
        0.0, "As presence_penalty, growing with each use"
    )
    max_tokens: Annotated[int, Whole(1, TOKENS, "4096")] = leaf(
        4096, "Answer length when the request names none"
    )
    force: Annotated[bool, _flag] = leaf(False, "true: requests cannot change the sampling of this model")


class Template(Part):
    file: Annotated[str | None, maybe(_path)] = leaf(
        None, "Jinja chat template instead of the model's own", "reload"
    )
    enable_thinking: Annotated[bool, _flag] = leaf(True, "Let models that can think aloud do so")


class Draft(Part):
    source: Annotated[str, names.SOURCE] = leaf(..., "Draft model for speculative decoding", "reload")
    tokens: Annotated[int, Whole(1, 64, "3")] = leaf(3, "Tokens drafted per step", "reload")


class Probe(Part):
    prompt: Annotated[str, _free_text] = leaf("ping", "Sent to a fresh engine before it takes traffic")
    max_tokens: Annotated[int, Whole(1, 1024, "4")] = leaf(4, "Tokens the probe must yield")
    within: Annotated[float, Duration("100ms", "1h")] = leaf(30.0, "The probe fails after this")


class Model(Part):
    source: Annotated[str, names.SOURCE] = leaf(
        ..., "Hub repo org/name, local folder (./ ../ / ~/), or builtin:NAME", "reload"
    )
    revision: Annotated[str | None, maybe(names.REVISION)] = leaf(
        None, "Hub commit; a branch name is accepted with a warning; null is the newest", "reload"
    )
    role: Annotated[Literal["chat", "embedding", "rerank"], Choice("chat", "embedding", "rerank")] = leaf(
        "chat", "What the model does", "reload"
    )
    aliases: Annotated[tuple[str, ...], Listed(names.ALIAS)] = leaf((), "Other names that requests may use")
    residency: Annotated[Literal["loaded", "on_demand", "disk"], Choice("loaded", "on_demand", "disk")] = (
        leaf("disk", "While not active: stay loaded, load on request, or only lie on disk")
    )
    idle_timeout: Annotated[float, Duration("1s")] = leaf(
        1800.0, "on_demand: paged out after this long without use"
    )
    min_residency: Annotated[float, Duration()] = leaf(
        60.0, "on_demand: never paged out sooner than this after a load"
    )
    priority: Annotated[int, Whole(0, 1000, "100")] = leaf(
        100, "Under memory pressure the lowest is shed first"
    )
    context: Annotated[int | Literal["auto"], _context] = leaf(
        "auto", "Most tokens per request; auto: the most that fits"
    )
    concurrency: Annotated[int, Whole(1, 256, "8")] = leaf(8, "Most requests decoded together")
    prefill_chunk: Annotated[int | Literal["auto"], auto_or(Whole(16, 65_536, "512"))] = leaf(
        "auto", "Prompt tokens processed between two decode steps; smaller is smoother for others"
    )
    kv_bits: Annotated[Literal[4, 8] | None, maybe(Choice(4, 8))] = leaf(
        None, "Quantise keys and values to so many bits: see docs/kv-quantisation.md", "reload"
    )
    adapter: Annotated[str | None, maybe(names.SOURCE)] = leaf(None, "LoRA folder or Hub repo", "reload")
    draft: Draft | None = leaf(None, "Draft model for speculative decoding", "reload")
    sampling: Sampling = section(Sampling, "Defaults for requests that do not say")
    template: Template = section(Template, "How chats become prompts")
    thinking_budget: Annotated[int | None, maybe(Whole(0, TOKENS, "2048"))] = leaf(
        None, "Most tokens of thinking, where a request does not say; null: no limit"
    )
    tool_parser: Annotated[str, Choice("auto", *names.TOOL_PARSERS)] = leaf(
        "auto", "How the model writes tool calls; auto: as its chat template tells"
    )
    trust_remote_code: Annotated[bool, _flag] = leaf(
        False, "Run Python code that ships with the model", "reload"
    )
    warmup: Annotated[tuple[str, ...], Listed(names.KEY)] = leaf(
        (), "Names from warmup_templates, put into the prompt cache before the model takes traffic"
    )
    probe: Probe = section(Probe, "The test a fresh engine must pass")

    @property
    def digest(self) -> str:
        """Identity of the engine: SHA-256 over the values that only a new engine can take up."""
        return fields.digest(self, frozenset({"reload"}))

    @property
    def own_digest(self) -> str:
        """SHA-256 over all of this model's values: a quarantined model returns when one of them changes."""
        return fields.digest(self)


class Memory(Part):
    budget: Annotated[Literal["auto"] | Share | int, auto_or(Percentage("1%"), Size("64MiB"))] = leaf(
        "auto", "What LMX may use: auto, a part of the machine's memory, or a size"
    )
    warning: Annotated[Share, Percentage("1%")] = leaf(
        Share(0.85), "Part of the budget where degrading starts"
    )
    critical: Annotated[Share, Percentage("1%")] = leaf(
        Share(0.9),
        "Part of the budget where it stops being gentle; unless said, 5 points over a higher `warning`",
    )
    recover: Annotated[Share, Percentage("1%")] = leaf(
        Share(0.8),
        "A step is left only below this part of the budget; unless said, 5 points under a lower `warning`",
    )
    dwell: Annotated[float, Duration("0s", "1d")] = leaf(10.0, "... held for this long")
    wired: Annotated[
        Literal["auto", "off", "weights", "recommended"], Choice("auto", "off", "weights", "recommended")
    ] = leaf("auto", "What is wired into physical memory on macOS")
    ladder: Annotated[tuple[str, ...], Listed(Choice(*names.LADDER))] = leaf(
        names.LADDER, "Steps taken under memory pressure, first to last"
    )

    @model_validator(mode="after")
    def _follow_warning(self) -> Self:
        """`warning` alone must not contradict a default that the file does not mention."""
        at = self.warning.fraction
        follow = {
            "recover": min(0.8, max(at - 0.05, at / 2, 0.01)),
            "critical": max(0.9, min(at + 0.05, 1.0)),
        }
        for name in follow.keys() - self.model_fields_set:
            self.__dict__[name] = Share(round(follow[name], 6))  # frozen, and not yet handed out
        return self


class Context(Part):
    ceiling: Annotated[int | Literal["auto"], _context] = leaf(
        "auto", "Most tokens per request, for all models"
    )
    safe_mode: Annotated[int, Whole(16, TOKENS, "64000")] = leaf(64000, "The ceiling while hot or degraded")


class Thermal(Part):
    enter: Annotated[str, Choice(*names.HEAT[1:])] = leaf("heavy", "Heat at which safe mode starts")
    leave: Annotated[str, Choice(*names.HEAT[:-1])] = leaf(
        "moderate", "Heat at which safe mode ends; unless said, nominal where `enter` is moderate"
    )

    @model_validator(mode="after")
    def _follow_enter(self) -> Self:
        """As in `Memory`."""
        if "leave" not in self.model_fields_set and self.enter == self.leave:
            self.__dict__["leave"] = names.HEAT[names.HEAT.index(self.enter) - 1]
        return self


class Cache(Part):
    memory: Annotated[Share | int, _part_or_size] = leaf(
        Share(0.1), "Prompt cache in memory, of all engines: a part of memory.budget, or a size; 0B is off"
    )
    disk: Annotated[int, Size()] = leaf(
        20 * 1024**3, "Prompt cache on disk, of all models, least recently used goes first; 0B is off"
    )
    path: Annotated[str, _path] = leaf("~/.lmx/cache", "Folder of the disk cache", "restart")
    share: Annotated[Literal["all", "key"], Choice("all", "key")] = leaf(
        "all", "Whose prompts a request may reuse: everybody's, or only those of its own API key"
    )


class Queue(Part):
    depth: Annotated[int, Whole(0, 100_000, "64")] = leaf(
        64, "Requests that may wait for a row, a load or a swap"
    )
    timeout: Annotated[float, Duration("100ms", "1d")] = leaf(
        60.0, "A request that waited this long is refused"
    )


class Swap(Part):
    strategy: Annotated[Literal["auto", "beside", "drain_first"], Choice("auto", "beside", "drain_first")] = (
        leaf("auto", "Load the new engine beside the old one, or drain first; auto: beside when both fit")
    )
    drain_timeout: Annotated[float, Duration("0s", "1d")] = leaf(
        60.0, "Running requests get this long to finish"
    )
    load_timeout: Annotated[float, Duration("1s", "1d")] = leaf(900.0, "A load that takes longer has failed")
    rollback: Annotated[bool, _flag] = leaf(True, "Bring the old model back when the new one fails")


class ErrorBudget(Part):
    target: Annotated[Share, Percentage()] = leaf(Share(0.999), "Part of requests that must succeed")
    window: Annotated[float, Duration("1m")] = leaf(3600.0, "Time over which it is counted")


class Slo(Part):
    ttft_p95: Annotated[float | None, maybe(Duration("1ms", "1h"))] = leaf(2.0, "p95 time to first token")
    tokens_per_s_p50: Annotated[float | None, maybe(Number(0, 1_000_000, "30"))] = leaf(
        None, "Median speed of a stream"
    )
    cold_start: Annotated[float | None, maybe(Duration("1ms", "1d"))] = leaf(
        None, "Longest start of an engine"
    )
    error_budget: ErrorBudget = section(ErrorBudget, "Failures that are allowed")


class ApiKeys(Part):
    env: Annotated[str | None, maybe(Text("the name of an environment variable", "LMX_KEYS"))] = leaf(
        None, "Environment variable that holds the keys"
    )
    file: Annotated[str | None, maybe(_path)] = leaf(
        None, "File that holds the keys, mode 0600; it is read again when it changes"
    )


class Server(Part):
    host: Annotated[str, names.HOST] = leaf("0.0.0.0", "Address to listen on", "rebind")
    port: Annotated[int, Whole(1, 65_535, "1234")] = leaf(1234, "Port to listen on", "rebind")
    allowed_hosts: Annotated[Literal["auto"] | tuple[str, ...], auto_or(Listed(names.HOST))] = leaf(
        "auto", "Names in the Host header this machine answers to"
    )
    cors: Annotated[tuple[str, ...], Listed(names.ORIGIN)] = leaf(
        (), "Origins of web pages that may call, as browsers send them"
    )
    api_keys: ApiKeys | None = leaf(None, "Where API keys come from; null: open, any key is accepted")
    admin: Annotated[Literal["loopback", "key", "off"], Choice("loopback", "key", "off")] = leaf(
        "loopback", "Who may call what changes things"
    )
    overrides: Annotated[Literal["allow", "deny"], Choice("allow", "deny")] = leaf(
        "allow", "Whether admin calls may lay a temporary override over this file"
    )
    max_body: Annotated[int, Size("1KiB", "64GiB")] = leaf(32 * 1024**2, "Largest request body")


class State(Part):
    path: Annotated[str, _path] = leaf("~/.lmx", "Where history, locks and the last good spec lie", "restart")
    events: Annotated[float, Duration("1h", "3650d")] = leaf(2_592_000.0, "Events are kept this long")


class WarmupTemplate(Part):
    messages: Annotated[tuple[dict[str, Any], ...], Maps()] = leaf(
        ..., "Chat messages as a request would send them"
    )
    tools: Annotated[tuple[dict[str, Any], ...], Maps()] = leaf((), "Tools offered with them")


class Mcp(Part):
    command: Annotated[tuple[str, ...] | None, maybe(Listed(_free_text, unique=False))] = leaf(
        None, "Program that speaks MCP on its standard input and output, run in the folder of this file"
    )
    url: Annotated[str | None, maybe(names.WEB)] = leaf(None, "Address of an MCP server (streamable HTTP)")
    token: Annotated[str | None, maybe(names.VARIABLE)] = leaf(
        None, "url: environment variable whose value is sent as the bearer token"
    )
    tools: Annotated[tuple[str, ...] | None, maybe(Listed(names.TOOL))] = leaf(
        None, "The tools that may be used; null: all that the server offers"
    )


class Skill(Part):
    python: Annotated[str | None, maybe(names.CALLABLE)] = leaf(
        None, "Python function, in a module that lies in the folder of this file"
    )
    mcp: Mcp | None = leaf(None, "MCP server")
    description: Annotated[str | None, maybe(_free_text)] = leaf(
        None, "What the model is told of a Python function; null: its docstring"
    )
    timeout: Annotated[float, Duration("100ms", "1h")] = leaf(30.0, "A call that takes longer is ended")
    memory: Annotated[int, Size("16MiB")] = leaf(
        512 * 1024**2, "Most memory of one process of it, on top of what Python itself takes"
    )
    concurrency: Annotated[int, Whole(1, 64, "4")] = leaf(
        4, "Most calls at a time; others wait. Each call of a Python function has a process to itself"
    )
    result: Annotated[int, Size("64B", "4MiB")] = leaf(
        64 * 1024, "Largest result of a call; a larger one is an error, not cut"
    )
    env: Annotated[tuple[str, ...], Listed(names.VARIABLE)] = leaf(
        (), "Environment variables it gets, by name; no others but PATH, HOME and the language"
    )


class Verify(Part):
    allowed_signers: Annotated[str, _path] = leaf(
        ..., "SSH allowed_signers file on this machine; commits must be signed by one of them"
    )


class Git(Part):
    url: Annotated[str, names.GIT_URL] = leaf(..., "Repository to follow; credentials are git's own business")
    ref: Annotated[str, names.GIT_REF] = leaf("main", "Branch, tag or whole commit to follow")
    path: Annotated[str, names.GIT_PATH] = leaf("lmx.yaml", "File inside the repository")
    interval: Annotated[float, Duration("1s", "1d")] = leaf(
        60.0, "Time between two looks, a tenth more or less"
    )
    fast_forward_only: Annotated[bool, _flag] = leaf(True, "Refuse a branch that was rewritten")
    verify: Verify | None = leaf(None, "Whose signatures count; null: none are checked")
    allow: Annotated[tuple[str, ...], Listed(Choice(*names.GIT_RIGHTS))] = leaf(
        (), "What the repository may say beyond the usual; only with verify"
    )


class Spec(Part):
    version: Annotated[Literal[1], Choice(1)] = leaf(..., "Version of this format")
    name: Annotated[str | None, maybe(Text("a name", "studio-01", most=253))] = leaf(
        None, "Name of this machine; null: its host name"
    )
    extends: Annotated[str | None, maybe(_path)] = leaf(
        None, "A base file, by its path from this one; maps merge, lists replace"
    )
    suspend: Annotated[bool, _flag] = leaf(False, "true: observe and protect, change nothing")
    active: Annotated[str | None, maybe(names.KEY)] = leaf(
        ..., 'The model that is always loaded and answers "default"; null: deliberately none'
    )
    models: dict[Annotated[str, names.KEY], Model] = leaf(
        ..., "The models of this machine, by the name requests use"
    )
    memory: Memory = section(Memory, "Memory budget and what happens near it")
    context: Context = section(Context, "Context ceilings for all models")
    thermal: Thermal = section(Thermal, "Heat")
    cache: Cache = section(Cache, "Prompt cache")
    queue: Queue = section(Queue, "One queue for requests that must wait")
    swap: Swap = section(Swap, "How one engine replaces another")
    slo: Slo = section(Slo, "Service levels to measure against")
    server: Server = section(Server, "Listeners and who may call")
    state: State = section(State, "What survives a restart")
    warmup_templates: dict[Annotated[str, names.KEY], WarmupTemplate] = leaf(
        {}, "Named conversations that warm a model up"
    )
    skills: dict[Annotated[str, names.KEY], Skill] = leaf({}, "Tools that LMX itself runs")
    git: Git | None = leaf(None, "Follow a file in a Git repository, laid over this one")

    # Dotted path -> the text in the file, where it held an environment reference. Not part of equality.
    _unexpanded: dict[str, str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]

    @property
    def unexpanded(self) -> dict[str, str]:
        """What the file says at the dotted paths whose values came from the environment."""
        return dict(self._unexpanded)
