"""What differs between two specs, field by field: the plan names the field that forces each action."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from reconciler import fields
from reconciler.fields import ChangeClass
from reconciler.spec import Spec

ABSENT = "absent"


@dataclass(frozen=True)
class Change:
    """One field. `old` and `new` are for people: as the file says them, references unexpanded.

    A model that comes or goes is one change at `models.NAME`, with its source as the value.
    """

    path: str
    old: str
    new: str
    change: ChangeClass


def changes(old: Spec, new: Spec) -> tuple[Change, ...]:
    """Every difference in meaning, in the order of the file. Equal specs give an empty tuple."""
    words = (old.unexpanded, new.unexpanded)
    return tuple(_differences(old, new, words, ""))


def _differences(
    old: BaseModel, new: BaseModel, words: tuple[Mapping[str, str], Mapping[str, str]], prefix: str
) -> Iterator[Change]:
    for name, field in type(new).model_fields.items():
        path, before, after = prefix + name, getattr(old, name), getattr(new, name)
        if before == after:
            continue
        if isinstance(before, BaseModel) and isinstance(after, BaseModel):
            yield from _differences(before, after, words, f"{path}.")
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            for key in [*before, *(key for key in after if key not in before)]:
                one, other = before.get(key), after.get(key)
                if one is not None and other is not None:
                    yield from _differences(one, other, words, f"{path}.{key}.")
                else:
                    change: ChangeClass = "reload" if path == "models" else fields.change_class(field)
                    yield Change(
                        f"{path}.{key}",
                        _whole(one, words[0], f"{path}.{key}"),
                        _whole(other, words[1], f"{path}.{key}"),
                        change,
                    )
        else:
            shown = _text(old, name, words[0], path), _text(new, name, words[1], path)
            yield Change(path, *shown, fields.change_class(field))


def _whole(part: BaseModel | None, words: Mapping[str, str], path: str) -> str:
    if part is None:
        return ABSENT
    data = fields.plain(part, words, f"{path}.")
    return str(data.get("source", data))


def _text(owner: BaseModel, name: str, words: Mapping[str, str], path: str) -> str:
    data = fields.plain(owner, words, path.removesuffix(name))
    return say(data[name])


def say(value: Any) -> str:
    """A value in YAML's words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(say, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {say(item)}" for key, item in value.items()) + "}"
    return str(value)
