"""Readings in a file: recorded by `lmx up --record`, or written by hand, and fed to `lmx simulate`.

A recording is JSON Lines, one reading a line. What a person writes is YAML:

    budget: 16GiB
    readings:
      - {for: 1m, used: 9GiB}
      - {for: 5m, used: 9GiB, heat: heavy, engines: [{model: chat, memory: 8GiB, active: true}]}

Both have the same keys: those of `readings.Reading`, without `_bytes`, and `t` for its time. Numbers are
seconds and bytes, or text with a unit. `service` holds, by model, what `readings.Service` says. Reading a
line that `record` wrote gives back the very same values, so a replay decides exactly as the original did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

from reconciler.loader import tree
from reconciler.loader.problems import Fault, Loc, Place, Problem, SpecError
from reconciler.readings import EngineReading, Reading, Service
from reconciler.scalars import closest, describe
from reconciler.trace_fields import Expected, form_of, key_of, optional, positive, seconds, size, text

_T = TypeVar("_T")

EVERY_S = 1.0  # between two readings of a record that lasts
MOST = 1_000_000  # readings of one trace, after `for` is spelt out


@dataclass(frozen=True)
class Record:
    """One look at the machine. services: by model."""

    reading: Reading
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Trace:
    """Records in the order of time. cut: the last line was cut off, as a full disk leaves it."""

    records: tuple[Record, ...]
    about: str = ""
    cut: bool = False


class TraceError(SpecError):
    """A file that is no trace. Holds every problem found, with its line and what is expected there."""


# --- writing -----------------------------------------------------------------------------------------


def record(reading: Reading, services: Mapping[str, Service] = MappingProxyType({})) -> str:
    """One line, without its end. Raises ValueError where a figure is no number."""
    line = _written(reading)
    if services:
        line["service"] = {
            model: _written(service, leave_out={"at": reading.at}) for model, service in services.items()
        }
    return json.dumps(line, separators=(",", ":"), allow_nan=False)


def _written(value: Any, leave_out: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """The fields that differ from their defaults, and those that have none."""
    line: dict[str, Any] = {}
    for item in fields(value):
        held = getattr(value, item.name)
        if held != leave_out.get(item.name, item.default):
            listed = item.name == "engines"
            line[key_of(type(value), item.name)] = [_written(engine) for engine in held] if listed else held
    return line


# --- reading -----------------------------------------------------------------------------------------


def load(content: str | bytes, name: str, budget: int | None = None) -> Trace:
    """The trace in a file's text; `name` is for messages.

    budget: bytes, for records that name none. Raises TraceError.
    """
    decoded = _decoded(content, name) if isinstance(content, bytes) else content
    first = next((line for line in map(str.strip, decoded.splitlines()) if line and line[0] != "#"), "")
    return (_Lines if first.startswith("{") else _Document)(name, budget).load(decoded)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = Place(content[: error.start].count(b"\n") + 1, 1)
        raise TraceError((Fault(place, "not UTF-8 text").of(name),)) from None


class _Reader:
    """What both forms share: records one after the other, and every problem with its place."""

    def __init__(self, name: str, budget: int | None) -> None:
        self.name, self.budget = name, budget
        self.every = EVERY_S
        self.problems: list[Problem] = []
        self.records: list[Record] = []
        self.end: float | None = None  # where a record without a time begins

    def place(self, loc: Loc) -> Place:
        raise NotImplementedError

    def wrong(self, loc: Loc, message: str, suggestion: str = "") -> None:
        self.problems.append(Fault(self.place(loc), message, loc, suggestion).of(self.name))

    def finished(self, *, about: str = "", cut: bool = False) -> Trace:
        if not self.records and not self.problems:
            self.wrong((), "no readings; a line is like " + '{"t": 0, "budget": "16GiB", "used": "9GiB"}')
        if self.problems:
            raise TraceError(tuple(self.problems))
        return Trace(tuple(self.records), about, cut)

    def take(self, data: Any, loc: Loc) -> None:
        """One record of the file."""
        found = len(self.problems)
        if not isinstance(data, dict):
            self.wrong(loc, f"expected a reading like {{t: 0s, used: 9GiB}}; found {describe(data)}")
            return
        data = dict(data)
        lasts = self.value(data.pop("for", None), optional(seconds), (*loc, "for"))
        every = self.value(data.pop("every", None), optional(positive), (*loc, "every")) or self.every
        figures = data.pop("service", None)
        listed = data.pop("engines", None)
        engines = self.engines(listed, (*loc, "engines"))
        if "t" not in data:
            data["t"] = 0.0 if self.end is None else self.end
        if data.get("budget") is None and self.budget is not None:
            data["budget"] = self.budget
        if "used" not in data and listed:
            data["used"] = sum(engine.memory_bytes for engine in engines)
        reading = self.filled(Reading, {**data, "engines": engines}, loc)
        services = self.services(figures, reading.at if reading else 0.0, (*loc, "service"))
        if reading is None or len(self.problems) > found:
            return
        if self.records and reading.at < self.records[-1].reading.at:
            last = self.records[-1].reading.at
            self.wrong((*loc, "t"), f"{reading.at:g} s is earlier than the reading before, {last:g} s")
            return
        count = 1 if lasts is None else max(1, math.ceil(lasts / every - 1e-9))
        if len(self.records) + count > MOST:
            self.wrong((*loc, "for"), f"more than {MOST:,} readings in all; make it shorter")
            return
        self.end = reading.at + (every if lasts is None else lasts)
        self.records += _repeated(Record(reading, MappingProxyType(services)), count, every)

    def services(self, data: Any, at: float, loc: Loc) -> dict[str, Service]:
        if data is None:
            return {}
        if not isinstance(data, dict):
            self.wrong(loc, f"expected models and their figures; found {describe(data)}")
            return {}
        found = {}
        for model, figures in data.items():
            if not isinstance(figures, dict):
                self.wrong(
                    (*loc, model), f"expected figures like {{requests: 40}}; found {describe(figures)}"
                )
                continue
            service = self.filled(Service, {"at": at, **figures}, (*loc, model))
            if service is not None:
                found[model] = service
        return found

    def engines(self, data: Any, loc: Loc) -> tuple[EngineReading, ...]:
        if data is None:
            return ()
        if not isinstance(data, list):
            self.wrong(loc, f"expected a list of engines; found {describe(data)}")
            return ()
        found: list[EngineReading] = []
        for index, item in enumerate(data):
            here = (*loc, index)
            if not isinstance(item, dict):
                self.wrong(here, f"expected {{model: chat, memory: 6GiB}}; found {describe(item)}")
                continue
            named = {"id": item.get("model", ""), **item}
            engine = self.filled(EngineReading, named, here)
            if engine is not None and engine.id in {other.id for other in found}:
                self.wrong(here, f"engine {engine.id!r} is here twice; give each its own id")
            elif engine is not None:
                found.append(engine)
        return tuple(found)

    def filled(self, kind: type[_T], data: dict[str, Any], loc: Loc) -> _T | None:
        """A dataclass from the file's words; None where something is wrong with them."""
        known = {key_of(kind, item.name): item for item in fields(kind)}  # type: ignore[arg-type]
        values: dict[str, Any] = {}
        before = len(self.problems)
        for key, value in data.items():
            item = known.get(key)
            if item is None:
                meant = closest(str(key), known)
                self.wrong((*loc, str(key)), f"unknown key; known are {', '.join(known)}", meant)
            elif item.name == "engines":
                values[item.name] = value
            else:
                values[item.name] = self.value(value, form_of(item), (*loc, key))
        for key, item in known.items():
            if item.default is MISSING and item.default_factory is MISSING and item.name not in values:
                places = "; write it here, once at the top, or as a size in memory.budget"
                more = places if key == "budget" else ""
                self.wrong(loc, f"{key} is missing{more}")
        return kind(**values) if len(self.problems) == before else None

    def value(self, value: Any, form: Callable[[Any], Any], loc: Loc) -> Any:
        try:
            return form(value)
        except Expected as error:
            self.wrong(loc, f"expected {error}; found {describe(value)}")
            return None


class _Lines(_Reader):
    """JSON Lines. Empty lines and lines that begin with # are passed over."""

    line = 1

    def place(self, loc: Loc) -> Place:
        return Place(self.line, 1)

    def load(self, content: str) -> Trace:
        cut = False
        lines = content.split("\n")
        for number, line in enumerate(lines, start=1):
            self.line = number
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                data = json.loads(line, parse_constant=_no_number)
            except ValueError as error:
                if number == len(lines):  # no end of line: the writer was stopped in the middle
                    cut = True
                    break
                self.wrong((), f"not JSON ({error}); expected one reading like " + '{"t": 0, "used": 1024}')
                continue
            self.take(data, ())
        return self.finished(cut=cut)


class _Document(_Reader):
    """One YAML map with the readings in a list."""

    root: tree.Mapping | None = None

    def place(self, loc: Loc) -> Place:
        return tree.locate(self.root, loc) if self.root is not None else Place(1, 1)

    def load(self, content: str) -> Trace:
        try:
            self.root, faults = tree.read(content)
        except tree.Unreadable as error:
            raise TraceError(tuple(fault.of(self.name) for fault in error.faults)) from None
        self.problems += [fault.of(self.name) for fault in faults]
        data = tree.raw(self.root)
        for key in data.keys() - {"about", "budget", "every", "readings"}:
            self.wrong((key,), "unknown key; known are about, budget, every, readings")
        self.budget = self.value(data.get("budget", self.budget), optional(size), ("budget",))
        self.every = self.value(data.get("every", EVERY_S), positive, ("every",)) or EVERY_S
        about = self.value(data.get("about", ""), text, ("about",))
        readings = data.get("readings")
        if not isinstance(readings, list):
            self.wrong(("readings",), "expected 'readings:' with a list like [{for: 1m, used: 9GiB}]")
            readings = []
        for index, item in enumerate(readings):
            self.take(item, ("readings", index))
        return self.finished(about=about or "")


def _repeated(first: Record, count: int, every: float) -> Iterator[Record]:
    """The same figures again and again; only the time goes on."""
    yield first
    for number in range(1, count):
        later = number * every
        services = {name: replace(found, at=found.at + later) for name, found in first.services.items()}
        yield Record(replace(first.reading, at=first.reading.at + later), MappingProxyType(services))


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
