"""Rules about the prompt cache and the conversations that fill it before a model takes traffic.

Paths are compared as text only: what they lead to may not be there yet, or may be a link.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler import names
from reconciler.loader.findings import Finding
from reconciler.loader.problems import Loc
from reconciler.scalars import closest, describe
from reconciler.spec import Spec, WarmupTemplate

_HERE = "/\0" * 16  # deeper than any `../` of a sane file: `../x` stays apart from `/x`
ROLES = ("system", "developer", "user", "assistant")


def check(spec: Spec) -> Iterator[Finding]:
    yield from _path(spec)
    for name, template in spec.warmup_templates.items():
        yield from _template(("warmup_templates", name), template)
    for name, model in spec.models.items():
        for index, wanted in enumerate(model.warmup):
            at: Loc = ("models", name, "warmup", index)
            if wanted not in spec.warmup_templates:
                known = ", ".join(spec.warmup_templates) or "none"
                message = f"no such name in warmup_templates ({known})"
                meant = closest(wanted, spec.warmup_templates)
                yield Finding((at, ("warmup_templates",)), message, meant)
        if model.warmup:
            yield from _reach(spec, ("models", name, "warmup"))


def _reach(spec: Spec, at: Loc) -> Iterator[Finding]:
    """A warm-up that no request can use."""
    cache = spec.cache
    if cache.share == "key":
        message = "fills what requests without an API key share: under cache.share: key, others cannot use it"
        yield Finding((at, ("cache", "share")), message, warning=True)
    if not cache.disk and not (cache.memory if isinstance(cache.memory, int) else cache.memory.fraction):
        message = "does nothing: cache.memory and cache.disk are both off"
        yield Finding((at, ("cache", "memory"), ("cache", "disk")), message, warning=True)


def _path(spec: Spec) -> Iterator[Finding]:
    """The cache has a folder of its own: a model's is copied, compared and deleted as one."""
    cache = _plain(spec.cache.path)
    for name, model in spec.models.items():
        for key, source in (("source", model.source), ("adapter", model.adapter)):
            if source is None or not names.is_local(source) or names.is_gguf(source):
                continue
            folder = _plain(source)
            if cache == folder or cache.startswith(folder.rstrip("/") + "/"):
                message = (
                    f"{spec.cache.path} lies inside the folder of models.{name}.{key}, {source}; "
                    "give the cache a folder of its own"
                )
                yield Finding((("cache", "path"), ("models", name, key)), message)


def _plain(path: str) -> str:
    """As an absolute path. Relative ones start from the same folder, the file's, which has no name here."""
    return posixpath.normpath(posixpath.join(_HERE, posixpath.expanduser(path)))


def _template(at: Loc, template: WarmupTemplate) -> Iterator[Finding]:
    if not template.messages:
        yield Finding(
            ((*at, "messages"),), "at least one message is needed, like {role: system, content: ...}"
        )
    for index, said in enumerate(template.messages):
        wrong = _message(said)
        if wrong:
            yield Finding(((*at, "messages", index),), wrong)
    for index, tool in enumerate(template.tools):
        function = tool.get("function")
        named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
        if tool.get("type") != "function" or not named:
            wrong = "expected {type: function, function: {name: ..., parameters: {...}}}, as a request has it"
            yield Finding(((*at, "tools", index),), wrong)


def _message(message: Mapping[str, Any]) -> str:
    """What is wrong with it; "" where nothing is."""
    for key in ("role", "content"):
        if key not in message:
            return f"{key} is missing; a message is like {{role: user, content: Hello}}"
    if message["role"] not in ROLES:
        return f"role must be {', '.join(ROLES[:-1])} or {ROLES[-1]}; found {describe(message['role'])}"
    unknown = sorted(message.keys() - {"role", "content", "name"})
    if unknown:
        return f"{unknown[0]} is no part of a message here; it has role, content and perhaps name"
    if not isinstance(message.get("name", ""), str):
        return f"name must be text; found {describe(message['name'])}"
    return _content(message["content"])


def _content(content: Any) -> str:
    if isinstance(content, str):
        return ""
    if not isinstance(content, list) or not content:
        return f"content must be text, or a list of text parts; found {describe(content)}"
    for part in content:
        if not isinstance(part, Mapping) or part.keys() != {"type", "text"}:
            return "each part of content must be {type: text, text: ...}"
        if part["type"] != "text" or not isinstance(part["text"], str):
            return "each part of content must be {type: text, text: ...}"
    return ""
