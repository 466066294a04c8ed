"""Files that say one spec together: a file, the bases it extends, and beside Git the local file below all.

    lowest                                                        highest
    local base ─▶ local file ─▶ base in the repository ─▶ file in the repository

Maps merge key by key, everything else is replaced, lists as a whole. In a map of names (`models`,
`warmup_templates`, `skills`) null takes away what a lower file has. Every node keeps the file and place
where it stands, so a message names the right line of the right file.

What is read together is handed on as one piece of bytes (`pack`): the gate hashes it, the history keeps
it, and a restart parses it again without asking the disk or Git. A plain file is its own bytes.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal, get_args

from reconciler.loader import tree
from reconciler.loader.problems import Fault, Place
from reconciler.loader.tree import Mapping, Node, Scalar

MAGIC = b"#!lmx-layers 1\n"
MOST = 8  # files in one chain
OF_NAMES = frozenset({"models", "warmup_templates", "skills"})

Origin = Literal["local", "git"]


@dataclass(frozen=True)
class Layer:
    """One file. name: its path from the file that was asked for, or from the root of the repository.

    broken: why its base cannot be had.
    """

    name: str
    data: bytes
    origin: Origin = "local"
    broken: str = ""


class NoBase(Exception):
    """A base file cannot be read. The message says why and what to do."""


def chain(
    name: str, data: bytes, origin: Origin, read: Callable[[str, str], tuple[str, bytes]]
) -> list[Layer]:
    """The file and all it extends, lowest first.

    read: (name of the file that extends, what it says there) -> (name, bytes) of the base; raises NoBase.
    A chain that cannot be followed ends with the layer that says so: parsing it reports the place.
    """
    found = [Layer(name, data, origin)]
    while (base := extends(found[0].data)) is not None:
        names = [layer.name for layer in reversed(found)]
        try:
            name, data = read(found[0].name, base)
            if name in names:
                raise NoBase(f"{' extends '.join([*names[names.index(name) :], name])}: a circle; cut it")
            if len(found) == MOST:
                raise NoBase(f"more than {MOST} files extend one another; merge some of them")
        except NoBase as error:
            found[0] = replace(found[0], broken=str(error))
            break
        found.insert(0, Layer(name, data, origin))
    return found


@lru_cache(maxsize=64)  # asked for in each pass of the loop, and answered by parsing
def extends(data: bytes) -> str | None:
    """What the file names as its base; None where it names none, or is not readable: parsing says so then."""
    if b"extends" not in data:
        return None
    try:
        root, _ = tree.read(data)
    except tree.Unreadable:
        return None
    node = root.items.get("extends")
    return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else None


def beside(name: str, base: str) -> str:
    """The path of a base in a repository, from its root. Raises NoBase where it leads out."""
    if base.startswith(("/", "~")) or "\\" in base or "\0" in base:
        raise NoBase("write the path of a base from the file that extends it, like ../base.yaml")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), base))
    if path == ".." or path.startswith("../") or path == ".":
        raise NoBase(f"{base} leads out of the repository; a base lies inside it")
    return path


# --- as one piece of bytes ---------------------------------------------------------------------------


def pack(layers: Sequence[Layer]) -> bytes:
    """Bytes that `unpack` reads again; those of the file itself where there is only one plain file."""
    only = layers[0] if len(layers) == 1 else None
    if only is not None and only.origin == "local" and not only.broken and not only.data.startswith(MAGIC):
        return only.data
    parts = [MAGIC]
    for layer in layers:
        about = {**asdict(layer), "data": len(layer.data)}
        parts += [b"#@ ", json.dumps(about, sort_keys=True).encode(), b"\n", layer.data, b"\n"]
    return b"".join(parts)


def unpack(content: bytes, name: str = "") -> list[Layer]:
    """name: of the file, where the content is a plain one. Raises ValueError where a pack is damaged."""
    if not content.startswith(MAGIC):
        return [Layer(name, content)]
    found, at = [], len(MAGIC)
    while at < len(content):
        end = content.index(b"\n", at)
        about = _about(json.loads(content[at + 3 : end]))
        at = end + 1 + about["data"]
        if content[at : at + 1] != b"\n":
            raise ValueError("a file is cut short")
        found.append(Layer(**{**about, "data": content[end + 1 : at]}))
        at += 1
        if len(found) > 2 * MOST:
            raise ValueError("it holds too many files")
    if not found:
        raise ValueError("it holds no file")
    return found


def _about(told: Any) -> dict[str, Any]:
    """What a pack says of a file: a client may send one, as the text of a try. Raises ValueError."""
    if not (
        isinstance(told, dict)
        and told.keys() == {"name", "origin", "broken", "data"}
        and all(isinstance(told[key], str) for key in ("name", "origin", "broken"))
        and told["origin"] in get_args(Origin)
        and type(told["data"]) is int
        and told["data"] >= 0
    ):
        raise ValueError("it does not tell of a file")
    return told


def from_git(content: bytes) -> bool:
    return content.startswith(MAGIC) and any(layer.origin == "git" for layer in unpack(content))


# --- as one tree -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """One layer's own tree, each place naming its file."""

    layer: Layer
    root: Mapping


def trees(layers: Sequence[Layer], path: PurePath) -> tuple[list[Read], list[Fault]]:
    """Every layer on its own, lowest first; path: of the file that was asked for.

    Raises tree.Unreadable with the places of the file at fault.
    """
    found, faults = [], []
    for layer in layers:
        name = _shown(layer, path)
        try:
            root, own = tree.read(layer.data)
        except tree.Unreadable as error:
            raise tree.Unreadable([_in(fault, name) for fault in error.faults]) from None
        faults += [_in(fault, name) for fault in own]
        marked = _marked(root, name)
        assert isinstance(marked, Mapping)
        found.append(Read(layer, marked))
        if layer.broken or (extends(layer.data) is not None and _lowest(layer, layers)):
            why = layer.broken or "the file that it names was not read along with this one"
            faults.append(Fault(tree.locate(marked, ("extends",)), why, ("extends",)))
    return found, faults


def _shown(layer: Layer, path: PurePath) -> str:
    if layer.origin == "git":
        return f"git:{layer.name}"
    return posixpath.normpath(path.parent / layer.name) if layer.name else str(path)


def _lowest(layer: Layer, all_of_them: Sequence[Layer]) -> bool:
    return next(other for other in all_of_them if other.origin == layer.origin) is layer


def merged(found: Sequence[Read]) -> Mapping:
    """What they say together."""
    root = _own(found[0])
    for over in found[1:]:
        root = _over(root, _own(over), ())
    return root


def _own(read: Read) -> Mapping:
    """Without what has done its work: the base it names; and what a file from Git says of `git`, which is
    refused where it is not null."""
    said = read.root.items.get("extends")
    gone = {"extends"} if not (isinstance(said, Scalar) and said.value is None) else set()
    gone |= {"git"} if read.layer.origin == "git" else set()
    return _without(read.root, gone) if gone & read.root.items.keys() else read.root


def _over(base: Mapping, over: Mapping, path: tuple[str, ...]) -> Mapping:
    items, keys = dict(base.items), dict(base.keys)
    for key, node in over.items.items():
        below = items.get(key)
        named = len(path) == 1 and path[0] in OF_NAMES
        if named and isinstance(node, Scalar) and node.value is None and below is not None:
            del items[key], keys[key]
            continue
        if isinstance(node, Mapping) and isinstance(below, Mapping):
            node = _over(below, node, (*path, key))
        items[key], keys[key] = node, over.keys[key]
    return _mapping(over.place, items, keys)


def _without(root: Mapping, gone: set[str]) -> Mapping:
    items = {name: node for name, node in root.items.items() if name not in gone}
    return _mapping(root.place, items, {name: root.keys[name] for name in items})


def _mapping(place: Place, items: dict[str, Node], keys: dict[str, Place]) -> Mapping:
    nodes = list(items.values())
    size = 1 + sum(node.size for node in nodes)
    return Mapping(place, items, keys, size, 1 + max((node.height for node in nodes), default=0))


def _marked(node: Node, name: str) -> Node:
    place = replace(node.place, file=name)
    if isinstance(node, Mapping):
        items = {key: _marked(item, name) for key, item in node.items.items()}
        return replace(
            node, place=place, items=items, keys={k: replace(p, file=name) for k, p in node.keys.items()}
        )
    if isinstance(node, tree.Sequence):
        return replace(node, place=place, items=tuple(_marked(item, name) for item in node.items))
    return replace(node, place=place)


def _in(fault: Fault, name: str) -> Fault:
    return replace(fault, place=replace(fault.place, file=name))


def walk(node: Node, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Scalar]]:
    """Every single value with its path."""
    if isinstance(node, Mapping):
        for key, item in node.items.items():
            yield from walk(item, (*loc, key))
    elif isinstance(node, tree.Sequence):
        for index, item in enumerate(node.items):
            yield from walk(item, (*loc, index))
    else:
        yield loc, node
