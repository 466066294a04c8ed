"""The one table of the spec: every leaf with its default, one line of prose and its change class.

The table is the pydantic fields themselves, written with `leaf()`; this module reads it. The JSON
Schema, the reference page, the digests and the planner's "which field forces this" come from it.
It knows nothing of the spec's contents, so `spec.py` can import it.
"""

from __future__ import annotations

import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from reconciler.kinds import Kind

ChangeClass = Literal["hot", "reload", "rebind", "restart"]
CHANGE_CLASSES: dict[ChangeClass, str] = {
    "hot": "taken up in place, between two steps of the engine or two requests",
    "reload": "the model gets a new engine, beside the old one or after it",
    "rebind": "a new listener opens, then the old one closes; running requests finish",
    "restart": "read once at start; `lmx up` must be started again",
}

MAP_KEY = "*"  # stands for the name in `models.*.source`


def leaf(default: Any, doc: str, change: ChangeClass = "hot") -> Any:
    """One row of the table. A default of `...` makes the key required."""
    return Field(default, description=doc, json_schema_extra={"change": change})


def section(model: type[BaseModel], doc: str) -> Any:
    """A nested map all of whose keys have defaults."""
    return Field(default_factory=model, description=doc)


@dataclass(frozen=True)
class Row:
    """One leaf. `path` is dotted, with `*` for names chosen by the user."""

    path: str
    kind: Kind
    default: Any
    required: bool
    doc: str
    change: ChangeClass


@dataclass(frozen=True)
class Shape:
    """What one field's annotation says: a leaf, a nested map, or a map of named maps."""

    kind: Kind | None = None
    nested: type[BaseModel] | None = None
    named: bool = False
    optional: bool = False


def shape(field: FieldInfo) -> Shape:
    """Read an annotation. Raises TypeError for a form the table does not know, so none slips by."""
    for item in field.metadata:
        if isinstance(item, Kind):
            return Shape(kind=item)
    annotation = field.annotation
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape(nested=annotation)
    if origin is dict and issubclass(arguments[1], BaseModel):
        return Shape(nested=arguments[1], named=True)
    if origin in (typing.Union, types.UnionType) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return Shape(nested=arguments[0], optional=True)
    raise TypeError(f"the field table cannot read {annotation!r}")


def change_class(field: FieldInfo) -> ChangeClass:
    extra = field.json_schema_extra
    return typing.cast(ChangeClass, extra["change"]) if isinstance(extra, dict) else "hot"


def default(field: FieldInfo) -> Any:
    """A field's default; None where it has none because the key is required."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[Row]:
    """Every leaf under `model`, in the order of the file."""
    for name, field in model.model_fields.items():
        form, path = shape(field), prefix + name
        if form.nested is not None:
            yield from rows(form.nested, f"{path}.{MAP_KEY}." if form.named else f"{path}.")
        elif form.kind is not None:
            required, doc = field.is_required(), field.description or ""
            yield Row(path, form.kind, default(field), required, doc, change_class(field))


def values(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, ChangeClass]]:
    """Every leaf of one instance, as the file would say it."""
    for name, field in type(model).model_fields.items():
        form, path, value = shape(field), prefix + name, getattr(model, name)
        if form.kind is not None:
            yield path, form.kind.show(value), change_class(field)
        elif isinstance(value, BaseModel):
            yield from values(value, f"{path}.")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from values(item, f"{path}.{key}.")


def plain(model: BaseModel, unexpanded: Mapping[str, str] | None = None, prefix: str = "") -> dict[str, Any]:
    """One instance as the data of a YAML file, defaults included.

    Where `unexpanded` (dotted path -> text) has the file's own words, they stand in for the value.
    """
    words = unexpanded or {}
    data: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        form, path, value = shape(field), prefix + name, getattr(model, name)
        if form.kind is not None:
            data[name] = _in_own_words(form.kind.show(value), path, words)
        elif isinstance(value, BaseModel):
            data[name] = plain(value, words, f"{path}.")
        elif isinstance(value, Mapping):
            data[name] = {key: plain(item, words, f"{path}.{key}.") for key, item in value.items()}
        else:
            data[name] = value
    return data


def without_defaults(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """What `plain` gave, as a file that says only what differs: reading it gives an equal instance, and asks
    of a default only what a file without it is asked."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        field = model.model_fields[name]
        form = shape(field)
        if form.nested is None or value is None:
            same = value == (form.kind.show(default(field)) if form.kind is not None else default(field))
            if field.is_required() or not same:
                kept[name] = value
        elif form.named:
            kept[name] = {key: without_defaults(form.nested, item) for key, item in value.items()}
        elif (inner := without_defaults(form.nested, value)) or form.optional:
            kept[name] = inner
    return kept


def model_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The class of the map at `loc`, or None where there is none."""
    found, parts = model, list(loc)
    while parts:
        name = parts.pop(0)
        field = found.model_fields.get(str(name))
        form = shape(field) if field else Shape()
        if form.nested is None:
            return None
        found = form.nested
        if form.named and parts:
            parts.pop(0)
    return found


def canonical(tree: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal meanings, equal bytes. Whole floats become integers."""
    return json.dumps(
        _normal(tree), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(model: BaseModel, only: frozenset[ChangeClass] | None = None) -> str:
    """SHA-256 over the leaves of `model` whose change class is in `only` (all, when None)."""
    chosen = {path: value for path, value, change in values(model) if only is None or change in only}
    return sha256(canonical(chosen))


def _in_own_words(shown: Any, path: str, words: Mapping[str, str]) -> Any:
    if isinstance(shown, list):
        return [_in_own_words(item, f"{path}.{index}", words) for index, item in enumerate(shown)]
    if isinstance(shown, dict):
        return {key: _in_own_words(item, f"{path}.{key}", words) for key, item in shown.items()}
    return words.get(path, shown)


def _normal(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _normal(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_normal(value) for value in tree]
    if isinstance(tree, float) and tree.is_integer():
        return int(tree)
    return tree
