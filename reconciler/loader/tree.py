"""YAML text -> a tree whose every node knows its line and column.

PyYAML scans and parses; composing is done here, because its own composer keeps the last of two equal
keys, follows aliases without a bound, and recurses as deep as the text asks. Scalars are read by
YAML 1.2's core schema (`scalars.resolve`), as editors do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import Reader

from reconciler.loader.problems import Fault, Loc, Place
from reconciler.scalars import resolve

MAX_BYTES = 256 * 1024  # parsing takes about a second there; a long real file has 20 KiB
MAX_VALUES = 20_000  # after anchors are expanded
MAX_DEPTH = 24  # the spec itself nests 6 deep; tool schemas in warmup_templates need the rest


@dataclass(frozen=True)
class Scalar:
    place: Place
    value: object
    size: int = 1
    height: int = 0


@dataclass(frozen=True)
class Sequence:
    place: Place
    items: tuple[Node, ...]
    size: int
    height: int


@dataclass(frozen=True)
class Mapping:
    """`keys` holds where each key stands, `items` its value, both in the order of the file."""

    place: Place
    items: dict[str, Node]
    keys: dict[str, Place]
    size: int
    height: int


Node = Scalar | Sequence | Mapping


class Unreadable(Exception):
    """The text is no YAML map. Carries what was found up to that point."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


def read(content: str | bytes) -> tuple[Mapping, list[Fault]]:
    """The tree of the file's only document, and faults that did not stop the reading."""
    text = _decode(content)
    reader = _Composer(text)
    try:
        return reader.document(), reader.faults
    except _Stop as stop:
        raise Unreadable([*reader.faults, stop.fault]) from None
    except yaml.MarkedYAMLError as error:
        raise Unreadable([*reader.faults, _syntax_fault(error)]) from None
    except (ValueError, OverflowError):
        # An escape such as "\UFFFFFFFF", or a %YAML directive of a thousand digits, in PyYAML's scanner.
        fault = Fault(_place(reader.loader.get_mark()), "not valid YAML: an escape or number is out of range")
        raise Unreadable([*reader.faults, fault]) from None
    finally:
        reader.loader.dispose()


def raw(node: Node) -> Any:
    """Plain Python data, as the file says it: nothing substituted, no defaults."""
    if isinstance(node, Mapping):
        return {key: raw(item) for key, item in node.items.items()}
    if isinstance(node, Sequence):
        return [raw(item) for item in node.items]
    return node.value


def locate(node: Node, loc: Loc, *, key: bool = False) -> Place:
    """Where the value at `loc` stands, or its key. A `loc` that is not there gives the nearest parent."""
    place = node.place
    for part in loc:
        child = _child(node, part)
        if child is None:
            return place
        place = node.keys[part] if isinstance(node, Mapping) and isinstance(part, str) else child.place
        node = child
    return place if key else node.place


def holds(node: Node, loc: Loc) -> bool:
    """Whether the file itself says something at `loc`."""
    found: Node | None = node
    for part in loc:
        found = _child(found, part) if found is not None else None
    return found is not None


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node, Mapping):
        return node.items.get(part) if isinstance(part, str) else None
    if isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
        return node.items[part]
    return None


class _Stop(Exception):
    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass
class _Composer:
    text: str
    faults: list[Fault] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loader: Any = yaml.SafeLoader(self.text)
        self.seen = 0

    def next(self) -> Any:
        return self.loader.get_event()

    def ends(self, kind: type[yaml.Event]) -> bool:
        return bool(self.loader.check_event(kind))

    def document(self) -> Mapping:
        self.next()  # stream start
        start = self.next()
        if isinstance(start, yaml.StreamEndEvent):
            raise _Stop(_empty(Place(1, 1)))
        node = self.node(0)
        self.next()  # document end
        more = self.next()
        if not isinstance(more, yaml.StreamEndEvent):
            raise _Stop(
                Fault(
                    _place(more.start_mark), "a second document starts here; keep one, and remove the '---'"
                )
            )
        if isinstance(node, Scalar) and node.value is None:
            raise _Stop(_empty(node.place))
        if not isinstance(node, Mapping):
            found = "a list" if isinstance(node, Sequence) else "a single value"
            raise _Stop(Fault(node.place, f"expected keys and values, like 'version: 1'; found {found}"))
        return node

    def node(self, depth: int) -> Node:
        event = self.next()
        place = _place(event.start_mark)
        self.seen += 1
        if depth > MAX_DEPTH:
            raise _Stop(Fault(place, f"nested deeper than {MAX_DEPTH} levels"))
        if self.seen > MAX_VALUES:
            raise _Stop(Fault(place, f"more than {MAX_VALUES} values"))
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, place, depth)
        if event.tag is not None:
            self.faults.append(Fault(place, f"the tag {event.tag!r} is not allowed; remove it"))
        if isinstance(event, yaml.ScalarEvent):
            node: Node = Scalar(place, self.value(event, place))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(place, depth)
        else:
            node = self.mapping(place, depth)
        if node.size > MAX_VALUES:
            raise _Stop(Fault(place, f"its anchors expand to more than {MAX_VALUES} values"))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def alias(self, anchor: str | None, place: Place, depth: int) -> Node:
        node = self.anchors.get(anchor or "")
        if node is None:
            self.faults.append(Fault(place, f"no anchor '&{anchor}' is complete before this '*{anchor}'"))
            return Scalar(place, None)
        if depth + node.height > MAX_DEPTH:
            raise _Stop(Fault(place, f"nested deeper than {MAX_DEPTH} levels"))
        return node

    def value(self, event: yaml.ScalarEvent, place: Place) -> object:
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self.faults.append(Fault(place, "half of a surrogate pair; write the character itself"))
            return None
        return resolve(event.value) if event.style is None else event.value

    def sequence(self, place: Place, depth: int) -> Sequence:
        items = []
        while not self.ends(yaml.SequenceEndEvent):
            items.append(self.node(depth + 1))
        self.next()
        return Sequence(place, tuple(items), 1 + sum(item.size for item in items), _height(items))

    def mapping(self, place: Place, depth: int) -> Mapping:
        items: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Mapping] = []
        while not self.ends(yaml.MappingEndEvent):
            event = self.loader.peek_event()
            at = _place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self.faults.append(Fault(at, "a key must be plain text"))
                self.node(depth + 1)
                self.node(depth + 1)
                continue
            self.node(depth + 1)
            item = self.node(depth + 1)
            if event.value == "<<" and event.style is None:
                merged += self.merges(item)
            elif event.value in items:
                first = keys[event.value].line
                self.faults.append(
                    Fault(at, f"the key {event.value!r} is here twice, first on line {first}; remove one")
                )
            else:
                items[event.value], keys[event.value] = item, at
        self.next()
        for base in merged:
            for key, item in base.items.items():
                if key not in items:
                    items[key], keys[key] = item, base.keys[key]
        children = list(items.values())
        return Mapping(place, items, keys, 1 + sum(item.size for item in children), _height(children))

    def merges(self, item: Node) -> list[Mapping]:
        """The maps that a `<<` key names. Where two say the same key, the earlier one counts."""
        items = item.items if isinstance(item, Sequence) else (item,)
        maps = [each for each in items if isinstance(each, Mapping)]
        if len(maps) != len(items):
            self.faults.append(Fault(item.place, "'<<' takes the alias of a map, like '<<: *base'"))
        return maps


def _height(items: list[Node]) -> int:
    return 1 + max((item.height for item in items), default=0)


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _empty(place: Place) -> Fault:
    return Fault(
        place,
        "the file is empty; four lines are enough: 'version: 1', 'active: demo', 'models:', "
        "'  demo: {source: builtin:lmx-demo}'",
    )


def _decode(content: str | bytes) -> str:
    """Text without a byte-order mark, or Unreadable with the place of the first bad byte."""
    if len(content) > MAX_BYTES:
        message = f"the file has {len(content)} bytes; at most {MAX_BYTES} are read. Is it the right file?"
        raise Unreadable([Fault(Place(1, 1), message)])
    if isinstance(content, bytes):
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise Unreadable([Fault(Place(1, 1), "this is UTF-16; save the file as UTF-8")])
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8")
            message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise Unreadable([Fault(_end(before), message)]) from None
    else:
        text = content
    text = text.removeprefix("\ufeff")
    bad = Reader.NON_PRINTABLE.search(text)
    if bad:
        message = f"the character U+{ord(bad[0]):04X} is not allowed in YAML; remove it"
        raise Unreadable([Fault(_end(text[: bad.start()]), message)])
    return text


def _end(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


# What PyYAML's scanner and parser say -> what a person can act on. First match counts.
_WORDS: tuple[tuple[str, str], ...] = (
    (r"found character '\\t'", "a tab cannot indent or start a value; use spaces"),
    (r"found character '(.)' that cannot start", "a value cannot start with '{0}'; put it in quotes"),
    (
        r"mapping values are not allowed",
        "': ' is not allowed here; check the indentation, or put the value in quotes",
    ),
    (r"could not find expected ':'", "expected 'key: value'; the ':' is missing, or a line is not indented"),
    (r"expected <block end>", "this line does not line up with those above; check its indentation"),
    (
        r"expected ',' or '[\]}]'",
        "a ',' or a closing bracket is missing; inside {{ }} and [ ] put ${{LMX_*}} in quotes",
    ),
    (r"unexpected end of stream", "a quote is opened here and never closed"),
)


def _syntax_fault(error: yaml.MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "unknown error"
    message = f"not valid YAML: {problem}"
    for pattern, words in _WORDS:
        match = re.search(pattern, problem)
        if match:
            message = "not valid YAML: " + words.format(*match.groups())
            break
    opened = error.context_mark
    if opened is not None and "unexpected end of stream" in problem:
        mark = opened
    elif opened is not None and mark is not None and opened.line != mark.line:
        message += f" (what it belongs to starts on line {opened.line + 1})"
    return Fault(_place(mark) if mark is not None else Place(1, 1), message)
