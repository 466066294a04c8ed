"""Rules between fields. Each finding names every field it compares, with its value.

A default never contradicts a default, but a value in the file may contradict the default of another
field: then the message says so, and the finding stands at the key that is in the file.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from reconciler import fields, names
from reconciler.loader import prompts
from reconciler.loader.findings import Finding
from reconciler.loader.problems import Loc, dotted
from reconciler.names import HEAT
from reconciler.scalars import closest
from reconciler.spec import Model, Part, Spec


def check(spec: Spec) -> Iterator[Finding]:
    yield from _active(spec)
    yield from _aliases(spec)
    for name, model in spec.models.items():
        yield from _model(spec, ("models", name), model)
    yield from _limits(spec)
    yield from _service_levels(spec)
    yield from _server(spec)
    yield from _skills(spec)
    yield from _git(spec)
    yield from prompts.check(spec)


def _active(spec: Spec) -> Iterator[Finding]:
    if spec.active is None:
        return
    model = spec.models.get(spec.active)
    if model is None:
        owner = next((name for name, other in spec.models.items() if spec.active in other.aliases), "")
        known = ", ".join(spec.models) or "none"
        message = (
            f"is an alias of {owner}; write the model's name"
            if owner
            else f"no such model in models ({known})"
        )
        yield Finding((("active",), ("models",)), message, owner or closest(spec.active, spec.models))
    elif model.role != "chat":
        message = f"models.{spec.active}.role is {model.role}; the active model must have role chat"
        yield Finding((("active",), ("models", spec.active, "role")), message)


def _aliases(spec: Spec) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for name, model in spec.models.items():
        for index, alias in enumerate(model.aliases):
            path: Loc = ("models", name, "aliases", index)
            if alias in spec.models:
                yield Finding(
                    (path, ("models", alias)), f"{alias!r} is the name of models.{alias}; remove the alias"
                )
            elif alias in owners:
                other = owners[alias]
                message = (
                    f"{alias!r} is also in models.{other}.aliases; requests would not know which is meant"
                )
                yield Finding((path, ("models", other, "aliases")), message)
            owners.setdefault(alias, name)


def _model(spec: Spec, at: Loc, model: Model) -> Iterator[Finding]:
    here = dotted(at)
    yield from _role(at, model)
    if model.min_residency > model.idle_timeout:
        yield Finding(
            ((*at, "min_residency"), (*at, "idle_timeout")),
            f"{_said(model, 'min_residency')} is longer than {here}.idle_timeout, "
            f"{_said(model, 'idle_timeout')}; lower the first or raise the second",
        )
    ceiling = spec.context.ceiling
    if model.context != "auto" and ceiling != "auto" and model.context > ceiling:
        yield Finding(
            ((*at, "context"), ("context", "ceiling")),
            f"{model.context} is a promise that context.ceiling, {ceiling}, breaks; "
            "lower the first or raise the second",
        )
    if model.context != "auto":
        for key, part, tokens in (
            ("sampling", model.sampling, model.sampling.max_tokens),
            ("probe", model.probe, model.probe.max_tokens),
        ):
            if "max_tokens" in part.model_fields_set and tokens >= model.context:
                yield Finding(
                    ((*at, key, "max_tokens"), (*at, "context")),
                    f"{tokens} leaves no room for a prompt in {here}.context, {model.context}; "
                    "lower the first or raise the second",
                )
    if model.revision is not None and not names.is_hub(model.source):
        yield Finding(
            ((*at, "revision"), (*at, "source")),
            f"only Hub repos have revisions, and {here}.source is {model.source}; remove the revision",
        )
    elif model.revision is not None and not names.is_commit(model.revision):
        message = f"{model.revision!r} is a branch or tag and can move; write the commit to pin it"
        yield Finding(((*at, "revision"),), message, warning=True)
    if model.trust_remote_code and names.is_hub(model.source) and not names.is_commit(model.revision or ""):
        yield Finding(
            ((*at, "trust_remote_code"), (*at, "revision")),
            f"runs whatever code {model.source} holds at the time; pin {here}.revision to a commit you know",
            warning=True,
        )


# Of a model that computes vectors or scores, these would be read and never used.
CHAT_ONLY = (
    "kv_bits",
    "adapter",
    "draft",
    "sampling",
    "template",
    "thinking_budget",
    "tool_parser",
    "trust_remote_code",
    "warmup",
)


def _role(at: Loc, model: Model) -> Iterator[Finding]:
    """Only where the file says something: a default asks for nothing."""
    if model.role == "chat":
        return
    for key in CHAT_ONLY:
        if key in model.model_fields_set and getattr(model, key) != fields.default(Model.model_fields[key]):
            message = f"is for chat models only, and {dotted(at)}.role is {model.role}; remove it"
            yield Finding(((*at, key), (*at, "role")), message)


def _limits(spec: Spec) -> Iterator[Finding]:
    memory = spec.memory
    ordered = (("recover", memory.recover), ("warning", memory.warning), ("critical", memory.critical))
    for (low, below), (high, above) in itertools.pairwise(ordered):
        if below >= above:
            message = f"{_said(memory, low)} must be below memory.{high}, {_said(memory, high)}"
            yield Finding((("memory", low), ("memory", high)), message)
    yield from _degrading(spec)
    thermal = spec.thermal
    if HEAT.index(thermal.leave) >= HEAT.index(thermal.enter):
        message = f"{_said(thermal, 'leave')} must be cooler than thermal.enter, {_said(thermal, 'enter')}"
        yield Finding((("thermal", "leave"), ("thermal", "enter")), message)
    if spec.swap.strategy != "beside" and spec.queue.timeout < spec.swap.drain_timeout:
        yield Finding(
            (("queue", "timeout"), ("swap", "drain_timeout")),
            f"{_said(spec.queue, 'timeout')} is shorter than swap.drain_timeout, "
            f"{_said(spec.swap, 'drain_timeout')}: requests that wait for a drain-first swap may be refused",
            warning=True,
        )


def _degrading(spec: Spec) -> Iterator[Finding]:
    """Choices that work, and that hardly anybody would make knowingly."""
    ladder, ceiling = spec.memory.ladder, spec.context.ceiling
    if not ladder:
        message = "nothing gives way under memory pressure; leave it out for all steps"
        yield Finding((("memory", "ladder"),), message, warning=True)
    elif "unload" in ladder and "shed" in ladder[ladder.index("unload") :]:
        message = "unload before shed: the active model is ended before models that nobody waits for"
        yield Finding((("memory", "ladder"),), message, warning=True)
    if (
        ceiling != "auto"
        and spec.context.safe_mode > ceiling
        and "safe_mode" in spec.context.model_fields_set
    ):
        yield Finding(
            (("context", "safe_mode"), ("context", "ceiling")),
            f"{spec.context.safe_mode} lowers nothing: context.ceiling is {ceiling}",
            warning=True,
        )


def _service_levels(spec: Spec) -> Iterator[Finding]:
    slo = spec.slo
    if slo.error_budget.target.fraction >= 1:
        message = "100% leaves no budget to count failures against; write what you can live with, like 99.9%"
        yield Finding((("slo", "error_budget", "target"),), message)
    if slo.cold_start is not None and slo.cold_start >= spec.swap.load_timeout:
        yield Finding(
            (("slo", "cold_start"), ("swap", "load_timeout")),
            f"{_said(slo, 'cold_start')} is never exceeded: a load has failed after swap.load_timeout, "
            f"{_said(spec.swap, 'load_timeout')}",
            warning=True,
        )


def _server(spec: Spec) -> Iterator[Finding]:
    keys = spec.server.api_keys
    if spec.server.admin == "key" and keys is None:
        message = "key needs server.api_keys, which is null; say where the keys come from"
        yield Finding((("server", "admin"), ("server", "api_keys")), message)
    if keys is not None and (keys.env is None) == (keys.file is None):
        message = "say exactly one of server.api_keys.env and server.api_keys.file"
        yield Finding((("server", "api_keys"),), message)


def _skills(spec: Spec) -> Iterator[Finding]:
    for name, skill in spec.skills.items():
        at: Loc = ("skills", name)
        here, mcp = dotted(at), skill.mcp
        if not names.is_skill(name):
            message = "models call it by this name: use letters, digits, '_' and '-' only"
            yield Finding((at,), message)
        if (skill.python is None) == (mcp is None):
            yield Finding((at,), f"say exactly one of {here}.python and {here}.mcp")
        if mcp is None:
            continue
        if bool(mcp.command) == (mcp.url is not None):
            yield Finding(((*at, "mcp"),), f"say exactly one of {here}.mcp.command and {here}.mcp.url")
        if mcp.url is not None and names.holds_password(mcp.url):
            message = f"must not hold a password, which status would show; name a variable: {here}.mcp.token"
            yield Finding(((*at, "mcp", "url"),), message)
        if mcp.token is not None and mcp.url is None:
            message = f"is sent to an address, and {here}.mcp.url is null; a command gets it by {here}.env"
            yield Finding(((*at, "mcp", "token"), (*at, "mcp", "url")), message)
        if skill.description is not None:
            message = f"is for Python functions: the server of {here}.mcp describes its tools itself"
            yield Finding(((*at, "description"), (*at, "mcp")), message)
        if mcp.url is not None:
            for key in sorted({"env", "memory"} & skill.model_fields_set):
                message = f"does nothing: {here}.mcp.url is a server that LMX does not start; remove it"
                yield Finding(((*at, key), (*at, "mcp", "url")), message)


def _git(spec: Spec) -> Iterator[Finding]:
    git = spec.git
    if git is None:
        return
    if names.holds_password(git.url) or re.match(r"\w+://[^/@]*:[^/@]*@", git.url):
        message = "must not hold a password, which status would show; git finds it by its credential.helper"
        yield Finding((("git", "url"),), message)
    if git.allow and git.verify is None:
        message = (
            "counts only with git.verify: else whoever can push could use it; name the signers, or remove it"
        )
        yield Finding((("git", "allow"), ("git", "verify")), message)


def _said(part: Part, name: str) -> str:
    """A value as the file would say it, and whether it is only the default."""
    kind = fields.shape(type(part).model_fields[name]).kind
    shown = kind.show(getattr(part, name)) if kind else getattr(part, name)
    return str(shown) if name in part.model_fields_set else f"{shown} (the default)"
