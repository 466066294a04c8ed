"""Text -> `Spec`, or every reason why not, each with line, column and a way out.

The order of the work: `tree` reads YAML with places, `layers` lays files over one another, `environment`
replaces references, the models in `spec.py` check each field, `not_yet` refuses what has no code behind it,
`rights` what a file from Git may not say, `checks` compares fields.
Later stages run even when earlier ones found faults, on what is left, so one run reports everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reconciler import fields
from reconciler.kinds import FROM_FILE, Wrong
from reconciler.loader import environment, layers, rights, tree
from reconciler.loader.checks import check
from reconciler.loader.findings import Finding
from reconciler.loader.not_yet import is_not_yet, refusals
from reconciler.loader.problems import Fault, Loc, Place, Problem, SpecError
from reconciler.scalars import closest, describe
from reconciler.spec import Spec

__all__ = ["Loaded", "Problem", "SpecError", "load_text"]


@dataclass(frozen=True)
class Loaded:
    """A file that is a valid spec.

    digest: SHA-256 of what the file means, before substitution and defaults: comments, key order and
    spacing do not count, nor how it is split into files. content_digest: SHA-256 of the bytes. raw: the
    file's own words. root: the same as a tree, in which each key knows its file, line and column.
    """

    path: Path
    spec: Spec
    digest: str
    content_digest: str
    warnings: tuple[str, ...]
    raw: dict[str, Any]
    root: tree.Mapping


def load_text(text: str | bytes, *, path: Path, env: Mapping[str, str]) -> Loaded:
    """Read one file's text, or a pack of layers. `path` is for messages only. Raises SpecError."""
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        files = layers.unpack(content)
    except (ValueError, KeyError, TypeError) as error:
        fault = Fault(Place(1, 1), f"what was kept of the last files is damaged ({error}); save them again")
        raise SpecError((fault.of(str(path)),)) from None
    try:
        if isinstance(text, str) and content != text.encode("utf-8", "replace"):
            tree.read(text)  # half a surrogate pair, which no file can hold: told by its place in the text
        found, faults = layers.trees(files, path)
    except tree.Unreadable as error:
        raise SpecError(tuple(fault.of(str(path)) for fault in error.faults)) from None
    if any(fault.loc == ("extends",) for fault in faults):
        raise SpecError(tuple(fault.of(str(path)) for fault in faults))  # what is missing may stand there
    root = layers.merged(found)
    data = environment.substitute(root, env, faults)
    unexpanded = environment.references(data)
    unset = {fault.loc for fault in faults if fault.loc}

    spec, errors = _validate(data)
    faults += [fault for error in errors for fault in _explain(root, error) if not _within(fault.loc, unset)]
    faults += rights.refusals(found, data)
    refused = list(refusals(Spec, data))
    faults += [
        Fault(tree.locate(root, loc, key=True), message, loc)
        for loc, message in refused
        if not _within(loc, unset)
    ]
    blind = unset | {_blamed(error) for error in errors} | {loc for loc, _ in refused}
    compared = spec or _salvage(data, errors)
    findings = [
        found
        for found in (check(compared) if compared else ())
        if not any(_within(loc, blind) or _asleep(root, loc) for loc in found.locs)
    ]
    faults += [_place(root, found) for found in findings if not found.warning]
    if faults or spec is None:
        raise SpecError(tuple(fault.of(str(path)) for fault in faults))

    spec._unexpanded.update(unexpanded)
    raw = tree.raw(root)
    warnings = tuple(str(_place(root, found).of(str(path))) for found in findings)
    return Loaded(
        path, spec, fields.sha256(fields.canonical(raw)), fields.sha256(content), warnings, raw, root
    )


def _validate(data: Any) -> tuple[Spec | None, list[ErrorDetails]]:
    try:
        return Spec.model_validate(data, context=FROM_FILE), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


# --- from pydantic's words to ours ------------------------------------------------------------------

_MISSING = {
    "version": "add 'version: 1'",
    "active": "name one of the models, or write null to serve none on purpose",
    "models": "add 'models:' with at least one name and its source below",
    "source": "write org/name for the Hub, ./folder, or builtin:lmx-demo",
}


def _explain(root: tree.Mapping, error: ErrorDetails) -> Iterator[Fault]:
    """What a person should read for one validation error; for a list, one fault for each wrong item."""
    loc, kind = error["loc"], error["type"]
    name = str(loc[-1]) if loc else ""
    if kind == "missing":
        at = tree.locate(root, loc[:-1], key=True)
        yield Fault(at, f"missing; {_MISSING.get(name, 'it has no default')}", loc)
    elif kind == "extra_forbidden":
        elsewhere = _elsewhere(name)
        message = f"unknown key; it belongs to {elsewhere}" if elsewhere else "unknown key"
        suggestion = "" if elsewhere else closest(name, _known_keys(loc[:-1]))
        remedy = "" if elsewhere or suggestion else "; remove it"
        yield Fault(tree.locate(root, loc, key=True), message + remedy, loc, suggestion)
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        empty = "; write its keys below, or remove it" if error["input"] is None else ""
        message = f"expected keys and values; found {describe(error['input'])}{empty}"
        yield Fault(tree.locate(root, loc), message, loc)
    elif loc[-1:] == ("[key]",):
        yield Fault(tree.locate(root, loc[:-1], key=True), str(error["ctx"]["error"]), loc[:-1])
    else:
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, Wrong) and cause.items:
            for index, item in cause.items.items():
                there = (*loc, index)
                yield Fault(tree.locate(root, there), str(item), there, item.suggestion)
        elif isinstance(cause, Wrong):
            yield Fault(tree.locate(root, loc), str(cause), loc, cause.suggestion)
        else:
            yield Fault(tree.locate(root, loc), error["msg"], loc)


def _known_keys(loc: Loc) -> list[str]:
    model = fields.model_at(Spec, loc)
    return list(model.model_fields) if model else []


def _elsewhere(name: str) -> str:
    """Where a key with this name belongs, if there is one such place only."""
    paths = [row.path for row in fields.rows(Spec) if row.path.split(".")[-1] == name]
    return paths[0].replace("*", "NAME") if len(paths) == 1 else ""


# --- comparing fields although some are wrong -------------------------------------------------------


def _blamed(error: ErrorDetails) -> Loc:
    """What a finding must not rest on, because of this error."""
    loc = error["loc"]
    return loc[:-1] if loc[-1:] == ("[key]",) else loc


_STAND_INS: dict[Loc, Any] = {("version",): 1, ("active",): None, ("models",): {}}


def _salvage(data: Any, errors: list[ErrorDetails]) -> Spec | None:
    """A spec with every wrong value taken out, so that the rest can still be compared. Changes `data`."""
    for error in errors:
        loc = _blamed(error)
        stand_in = _STAND_INS.get(loc)
        if len(loc) == 2 and loc[0] == "models":
            stand_in = {"source": "./unknown"}
        elif len(loc) == 3 and loc[0] == "models" and loc[2] == "source":
            stand_in = "./unknown"
        _replace(data, loc, stand_in)
    return _validate(data)[0]


def _replace(data: Any, loc: Loc, stand_in: Any) -> None:
    parent = data
    for part in loc[:-1]:
        if not isinstance(parent, dict) or part not in parent:
            return
        parent = parent[part]
    if not isinstance(parent, dict) or not loc:
        return
    if stand_in is None and loc != ("active",):
        parent.pop(loc[-1], None)
    else:
        parent[loc[-1]] = stand_in


def _within(loc: Loc, blind: set[Loc]) -> bool:
    return any(loc[: len(other)] == other for other in blind)


def _asleep(root: tree.Mapping, loc: Loc) -> bool:
    """A default that nothing acts on yet contradicts nobody: the file could not change it."""
    return is_not_yet(".".join(map(str, loc))) and not tree.holds(root, loc)


def _place(root: tree.Mapping, found: Finding) -> Fault:
    """A finding is about its first field; it stands at the first that the file itself mentions."""
    held = next((loc for loc in found.locs if tree.holds(root, loc)), found.locs[0])
    return Fault(tree.locate(root, held), found.message, found.locs[0], found.suggestion)
