"""What a tried spec may say otherwise than the file. Pure.

A try comes from whoever may change things over HTTP; the file comes from whoever owns the machine. So a
try arranges what the file names and opens nothing new: which model is active, residency, limits, sampling,
memory, service levels. What it may not touch is listed in `FIXED`; what a model is made of must be named by
the file already, together with its permission to run code. A rollback takes its words from this machine's
own history, which the file's author wrote once: there a model's files may be other ones, but not its
permission, and what is `FIXED` stays as the file says it now.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reconciler.changes import Change, changes
from reconciler.spec import Model, Spec

# Dotted path, and all below it -> why only the file may say it.
FIXED: dict[str, str] = {
    "name": "the file names the machine",
    "extends": "a try opens no other file",
    "git": "the file says which repository is followed",
    "suspend": "`lmx suspend` and `lmx resume` do that",
    "server": "the file says where LMX listens and who may call",
    "state": "it is read once, at start",
    "cache.path": "it is read once, at start",
    "cache.share": "the file says whose prompts may be reused",
    "skills": "the file says which programs run",
}
_NEW = "is not named by the file, and a try opens nothing new"


def refusals(file: Spec, tried: Spec) -> list[str]:
    """Every reason why a caller may not try this spec while the file says that. Empty: it may be tried."""
    found = [
        f"{c.path}: {c.old} -> {c.new}: {FIXED[place]}; edit the file to change it"
        for c in changes(file, tried)
        if (place := _fixed(c.path)) is not None
    ]
    for name, model in tried.models.items():
        found += [f"models.{name}.{key}: {why}" for key, why in _new_parts(file, model)]
        found += _newly_trusted(file, name, model)
    found += [
        f"{path}: {text}: a try takes from the environment only what the file takes, and in the same place; "
        "write the value itself"
        for path, text in tried.unexpanded.items()
        if file.unexpanded.get(path) != text
    ]
    return found


def carried_over(file: Spec, before: Spec) -> tuple[Spec, tuple[Change, ...]]:
    """An earlier spec with what is `FIXED` as the file has it now, and what of it is therefore left out.

    The result has not been checked: two fields may now contradict each other.
    """
    left = tuple(c for c in changes(file, before) if _fixed(c.path) is not None)
    kept: dict[str, Any] = {key: getattr(file, key) for key in FIXED if "." not in key}
    kept["cache"] = before.cache.model_copy(
        update={key.partition(".")[2]: getattr(file.cache, key.partition(".")[2]) for key in _in_cache()}
    )
    spec = before.model_copy(update=kept)
    words = {p: t for p, t in before.unexpanded.items() if _fixed(p) is None}
    words |= {p: t for p, t in file.unexpanded.items() if _fixed(p) is not None}
    spec._unexpanded = words
    return spec, left


def newly_trusted(file: Spec, spec: Spec) -> list[str]:
    """Models of `spec` that would run code which the file does not let run."""
    return [line for name, model in spec.models.items() for line in _newly_trusted(file, name, model)]


def _in_cache() -> list[str]:
    return [key for key in FIXED if key.startswith("cache.")]


def _fixed(path: str) -> str | None:
    return next((place for place in FIXED if path == place or path.startswith(f"{place}.")), None)


def _new_parts(file: Spec, model: Model) -> Iterator[tuple[str, str]]:
    """What this model would open and no model of the file does."""
    known = file.models.values()
    if model.source not in {m.source for m in known}:
        add = "add the model to the file with residency: disk, which changes nothing that runs, and try again"
        yield "source", f"{model.source} {_NEW}; {add}"
    elif (model.source, model.revision) not in {(m.source, m.revision) for m in known}:
        yield "revision", f"the file names {model.source} at no revision {model.revision}; edit the file"
    drafts = {m.draft.source for m in known if m.draft is not None}
    for key, value, named in (
        ("adapter", model.adapter, {m.adapter for m in known}),
        ("template.file", model.template.file, {m.template.file for m in known}),
        ("draft.source", model.draft.source if model.draft is not None else None, drafts),
    ):
        if value is not None and value not in named:
            yield key, f"{value} {_NEW}; edit the file"


def _newly_trusted(file: Spec, name: str, model: Model) -> list[str]:
    trusted = {(m.source, m.revision) for m in file.models.values() if m.trust_remote_code}
    if not model.trust_remote_code or (model.source, model.revision) in trusted:
        return []
    why = f"the file does not let {model.source} run code of its own, and only the file may"
    return [f"models.{name}.trust_remote_code: {why}"]
