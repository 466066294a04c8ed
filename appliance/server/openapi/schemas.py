"""JSON Schemas of msgspec structures, with what only the code beside them says.

A request's structure keeps large or rare values as `Raw` and leaves ranges and refusals to tables (`RANGES`,
`NOTHING`). `Notes` brings those together, so that one document says what is really taken. msgspec's own
generator (`msgspec.json.schema_components`) has no word for a `Raw` that has a default; this one follows its
output in all else. Source: JSON Schema 2020-12, the dialect of OpenAPI 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import inspect as mi

Schema = dict[str, Any]
Range = tuple[float, float, bool]  # lowest, highest, whether the lowest itself is allowed
REF = "#/components/schemas/"


@dataclass(frozen=True)
class Notes:
    """What is known of one structure's fields, by name, beside their types.

    raw: what a `Raw` field is decoded as (see `Components.of`). nothing: values that ask for nothing, of
    fields whose every other value is refused. bounds: more keywords for a field. variants: of which an object
    is one, beside what its fields say.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    nothing: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)
    bounds: Mapping[str, Schema] = field(default_factory=dict)
    variants: Sequence[Schema] = ()


class Components:
    """The shared schemas of a document. names: what to call structures whose own names are taken twice."""

    def __init__(self, notes: Mapping[type, Notes], names: Mapping[type, str]) -> None:
        self._notes, self._names = notes, names
        self.owners: dict[str, type] = {}  # the structure behind each schema
        self.schemas: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """The schema of a type; structures become references. A schema stays as it is, a tuple is any of its
        types."""
        if isinstance(kind, dict):
            return kind
        if isinstance(kind, tuple):  # msgspec knows no union of structures without tags
            return _any_of([self.of(one) for one in kind])
        return self._schema(mi.type_info(kind))

    def _schema(self, kind: mi.Type) -> Schema:
        match kind:
            case mi.Metadata(type=inner):
                return self._schema(inner)
            case mi.AnyType() | mi.RawType():
                return {}
            case mi.NoneType():
                return {"type": "null"}
            case mi.BoolType():
                return {"type": "boolean"}
            case mi.IntType():
                return {"type": "integer"}
            case mi.FloatType():
                return {"type": "number"}
            case mi.StrType():
                return {"type": "string"}
            case mi.LiteralType(values=values):
                return {"enum": sorted(values, key=str)}
            case mi.UnionType(types=types):
                return _any_of([self._schema(one) for one in types])
            case mi.ListType(item_type=item):
                return {"type": "array", "items": self._schema(item)}
            case mi.DictType(value_type=value):
                held = self._schema(value)
                return {"type": "object", **({"additionalProperties": held} if held else {})}
            case mi.StructType():
                return self._reference(kind)
        raise TypeError(f"no schema for {type(kind).__name__}: add it here")

    def _reference(self, kind: mi.StructType) -> Schema:
        name = self._names.get(kind.cls, kind.cls.__name__)
        owner = self.owners.setdefault(name, kind.cls)
        if owner is not kind.cls:
            raise ValueError(
                f"{owner.__module__} and {kind.cls.__module__} both have a {name}: name one of them in NAMES"
            )
        if name not in self.schemas:
            self.schemas[name] = {}  # before its fields: one of them may be of its own kind
            self.schemas[name].update(self._object(kind))
        return {"$ref": REF + name}

    def _object(self, kind: mi.StructType) -> Schema:
        notes = self._notes.get(kind.cls, Notes())
        made: Schema = {"type": "object", "properties": {}}
        if text := _description(kind.cls):
            made = {"description": text, **made}
        for part in kind.fields:
            made["properties"][part.encode_name] = self._field(part, notes)
        required = [part.encode_name for part in kind.fields if part.required]
        if required:
            made["required"] = required
        if kind.forbid_unknown_fields:
            made["additionalProperties"] = False
        if notes.variants:
            made["anyOf"] = list(notes.variants)
        return made

    def _field(self, part: mi.Field, notes: Notes) -> Schema:
        name = part.encode_name
        if name in notes.nothing:
            return _wishes_nothing(notes.nothing[name])
        if name in notes.raw:
            found = self.of(notes.raw[name])
            found = found if part.required else _or_null(found)
        else:
            found = self._schema(part.type)
        if name in notes.ranges:
            found = _within(found, notes.ranges[name])
        found = {**found, **notes.bounds.get(name, {})}
        if isinstance(part.default, str | int | float | bool):
            found = {**found, "default": part.default}
        return found


def _description(kind: type) -> str | None:
    text = (kind.__doc__ or "").strip()
    return " ".join(text.split()) or None


def _any_of(found: list[Schema]) -> Schema:
    plain = [one["type"] for one in found if one.keys() == {"type"}]
    if len(plain) == len(found):
        return {"type": plain}
    return {"anyOf": found}


def _or_null(found: Schema) -> Schema:
    return _any_of([found, {"type": "null"}]) if found else found


def _within(found: Schema, limits: Range) -> Schema:
    low, high, closed = limits
    return {**found, "minimum" if closed else "exclusiveMinimum": low, "maximum": high}


def _wishes_nothing(values: Sequence[Any]) -> Schema:
    taken = [None, [], *values]
    return {"description": "Not served: only values that ask for nothing are taken.", "enum": taken}


def raw_fields(kind: type) -> set[str]:
    """Names of the fields of a structure that are `Raw`, or lists of it: those that need a note."""
    info = mi.type_info(kind)
    assert isinstance(info, mi.StructType)
    return {part.encode_name for part in info.fields if _is_raw(part.type)}


def _is_raw(kind: mi.Type) -> bool:
    if isinstance(kind, mi.UnionType):
        return any(_is_raw(one) for one in kind.types)
    return isinstance(kind, mi.RawType) or (isinstance(kind, mi.ListType) and _is_raw(kind.item_type))
