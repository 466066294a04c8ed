"""Where each value of a spec comes from: a file and place, the environment, or a default. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from reconciler import fields
from reconciler.loader import Loaded, tree
from reconciler.loader.problems import Loc, Place


@dataclass(frozen=True)
class Origin:
    """kind: "try" is a file too, one that is only tried. file: as messages name it (`git:PATH` in a
    repository); line, column: of the key, from 1; 0 of a default. text: what stands there, where the
    environment gives the value.
    """

    kind: Literal["default", "file", "environment", "try"]
    file: str = ""
    line: int = 0
    column: int = 0
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Without what says nothing."""
        return {key: value for key, value in vars(self).items() if value}

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        match self.kind:
            case "default":
                return "default"
            case "environment":
                return f"from the environment, {place}"
            case "try":
                return f"tried, {place}"
        return place


def origins(loaded: Loaded) -> dict[str, Origin]:
    """Dotted path of each leaf, in the order of the file -> where its value comes from."""
    words = loaded.spec.unexpanded
    return {
        path: _origin(loaded.root, loc, path, words, str(loaded.path)) for path, loc, _ in leaves(loaded.spec)
    }


def tried_over(file: Loaded, tried: Loaded) -> dict[str, Origin]:
    """As above for a tried spec: what it says as the file does comes from the file."""
    before, after = origins(file), origins(tried)
    values = {path: value for path, _, value in leaves(file.spec)}
    found = {}
    for path, _, value in leaves(tried.spec):
        if path in before and values[path] == value:
            found[path] = before[path]
        else:
            own = after[path]
            found[path] = Origin("try", own.file or str(tried.path), own.line, own.column, own.text)
    return found


def leaves(part: BaseModel, path: str = "", loc: Loc = ()) -> Iterator[tuple[str, Loc, Any]]:
    """Dotted path, loc and value of each; a map that may be null is a leaf while it is."""
    for name, field in type(part).model_fields.items():
        value, here, there = getattr(part, name), f"{path}.{name}" if path else name, (*loc, name)
        if fields.shape(field).kind is None and isinstance(value, BaseModel):
            yield from leaves(value, here, there)
        elif fields.shape(field).kind is None and isinstance(value, Mapping) and value:
            for key, item in value.items():
                yield from leaves(item, f"{here}.{key}", (*there, key))
        else:
            yield here, there, value


def _origin(root: tree.Mapping, loc: Loc, path: str, words: Mapping[str, str], name: str) -> Origin:
    if not tree.holds(root, loc):
        return Origin("default")
    place: Place = tree.locate(root, loc, key=True)
    text = next((t for key, t in words.items() if key == path or key.startswith(f"{path}.")), "")
    where = (place.file or name, place.line, place.column)
    return Origin("environment", *where, text) if text else Origin("file", *where)
