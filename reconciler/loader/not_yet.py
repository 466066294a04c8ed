"""What the format already has a place for and LMX cannot do yet.

A value that differs from the default is refused by name: a key that is read and ignored would be a
promise nobody keeps. Whoever lands a feature removes its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from reconciler import fields, names
from reconciler.fields import MAP_KEY
from reconciler.kinds import Wrong
from reconciler.loader.problems import Loc


@dataclass(frozen=True)
class Row:
    """`path` covers everything below it. `when` narrows the refusal to some values.

    `instead` is for keys without a default: what to write.
    """

    path: str
    feature: str
    when: Callable[[Any], bool] | None = None
    instead: str = ""


NOT_YET: tuple[Row, ...] = (
    Row("models.*.source", "GGUF files", names.is_gguf, "name MLX weights"),
    Row("models.*.draft", "draft models"),
)


def refusals(model: type[BaseModel], data: Any) -> Iterator[tuple[Loc, str]]:
    """Loc and message of every value in `data` that asks for something that has not landed.

    Works on data that may be wrong elsewhere, so that one run reports everything.
    """
    for row in NOT_YET:
        for path, value, default, required in _matches(model, row.path, data):
            if row.when is not None and not row.when(value):
                continue
            way_out = row.instead if required else f"remove it, or write its default: {_plain(default)}"
            yield path, f"not supported yet ({row.feature}); {way_out}"


def is_not_yet(path: str) -> bool:
    """Whether nothing but the default may stand at a path of the field table."""
    return any(row.when is None and (path == row.path or path.startswith(f"{row.path}.")) for row in NOT_YET)


def _matches(model: type[BaseModel], pattern: str, data: Any) -> Iterator[tuple[Loc, Any, Any, bool]]:
    """Values at `pattern` that are of the right type and differ from the default."""
    head, _, rest = pattern.partition(".")
    field = model.model_fields[head]
    form = fields.shape(field)
    if not isinstance(data, dict) or head not in data:
        return
    value = data[head]
    if rest:
        assert form.nested is not None, f"{pattern} goes below a leaf"
        inner = rest.removeprefix(f"{MAP_KEY}.") if form.named else rest
        below = (
            value.items() if form.named and isinstance(value, dict) else [] if form.named else [(None, value)]
        )
        for key, item in below:
            for path, *found in _matches(form.nested, inner, item):
                yield ((head, *path) if key is None else (head, key, *path)), *found
    elif form.nested is not None and not form.named and not form.optional:
        for name in form.nested.model_fields:
            for path, *found in _matches(form.nested, name, value):
                yield (head, *path), *found
    else:
        default = fields.default(field)
        try:
            parsed = form.kind.parse(value) if form.kind else value
        except Wrong:
            return
        if field.is_required() or parsed != default:
            shown = form.kind.show(default) if form.kind and not field.is_required() else default
            yield (head,), parsed, shown, field.is_required()


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)
