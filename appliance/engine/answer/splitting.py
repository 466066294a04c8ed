"""From an answer's text to its parts, in their order, while it is written.

Markers are looked for in the text, not among tokens: what models write is not always cut into tokens as
their markers are. Text that may turn out to be the beginning of a marker or of a stop string is held back;
whatever the borders of its pieces, the same text gives the same parts.

White space next to a marker belongs to it. Stop strings count in what is said only: neither in thoughts, nor
in tool calls, nor in what was begun as a call and comes back as text since it is none. Nothing else gets
lost: what is no part comes as the text it is, markers included.
"""

from __future__ import annotations

from typing import Literal

from appliance.engine.answer import reading
from appliance.engine.answer.plan import Mode, Plan
from appliance.engine.answer.reading import Reader
from appliance.engine.answer.writing import Broken, Enough, Writer
from appliance.wire import CallPart

Kind = Literal["reasoning", "text", "call", "warning"]
Part = tuple[Kind, str | CallPart]
_NOTHING: frozenset[str] = frozenset()


class Splitter:
    """`push` the text, then `end` it once; `take` what has become certain."""

    def __init__(self, plan: Plan, stops: tuple[str, ...] = ()) -> None:
        self.mode: Mode = plan.initial
        self.stop: str | None = None  # the stop string that ended it
        self.done = False  # what comes is not looked at any more
        self._plan = plan
        self._stops = stops
        self._writer = Writer(_NOTHING)
        if plan.tools is not None:
            self._writer = Writer(plan.tools.offered, single=plan.tools.single)
        self._reader: Reader | None = None
        self._back: Mode = plan.initial  # the mode in which the call began
        self._held = ""
        self._trim = plan.initial == "reasoning"  # white space follows a marker
        # A call without a marker is only looked for where an answer begins.
        self._bare = plan.tools is not None and not plan.tools.form.start
        self._parts: list[Part] = []
        self._needles: dict[Mode, tuple[tuple[str, Mode | None], ...]] = {}
        for mode in ("content", "reasoning", "header"):
            edges: tuple[tuple[str, Mode | None], ...] = plan.edges.get(mode, ())
            if mode == "content":
                edges = (*((stop, None) for stop in stops), *edges)
            self._needles[mode] = edges
        self._first = {mode: frozenset(n[0] for n, _ in pairs) for mode, pairs in self._needles.items()}
        self._longest = {
            mode: max((len(n) for n, _ in pairs), default=0) for mode, pairs in self._needles.items()
        }

    @property
    def reasoning(self) -> bool:
        """What comes next is thought."""
        return self.mode == "reasoning"

    def push(self, text: str) -> None:
        text, self._held = self._held + text, ""
        while text and not self.done:
            text = self._read(text) if self._reader is not None else self._scan(text)

    def end(self, *, cut: bool = False) -> None:
        """There is no more. cut: for want of tokens."""
        self._writer.cut = cut
        while not self.done:
            if self._reader is None:
                self._say(self._held)
                self._held = ""
                break
            text = self._end_call(cut)
            if not text:
                break
            self.push(text)
        self.done = True

    def settle(self) -> None:
        """What is said from now on is text to the end: no marker counts in it, only stop strings."""
        self._needles["content"] = tuple((stop, None) for stop in self._stops)
        self._first["content"] = frozenset(stop[0] for stop in self._stops)
        self._longest["content"] = max(map(len, self._stops), default=0)

    def take(self) -> list[Part]:
        self._calls()
        parts, self._parts = self._parts, []
        return parts

    # -- what is said and thought --------------------------------------------------------------------

    def _scan(self, text: str) -> str:
        """Say what is certain; what is left to look at. What is not certain is held."""
        if self._trim:
            text = text.lstrip()
            if not text:
                return ""
            self._trim = False
        needles = self._needles[self.mode]
        found = min(
            (
                (at + len(needle), at, number)
                for number, (needle, _) in enumerate(needles)
                if (at := text.find(needle)) >= 0
            ),
            default=None,
        )
        if self._bare and self.mode == "content" and (said := text.lstrip()).startswith("{"):
            space = len(text) - len(said)
            if found is None or found[0] > space:
                return self._open(reading.bare(self._writer), text[: space + 1], said[1:])
        if found is None:
            keep = self._overlap(text)
            body = text[: len(text) - keep].rstrip()
            self._say(body)
            self._held = text[len(body) :]
            return ""
        end, at, number = found
        needle, target = needles[number]
        if target is None:
            self._say(text[:at])
            self.stop, self.done = needle, True
            return ""
        said = text[:at].rstrip()
        self._say(said)
        if target == "call":
            assert self._plan.tools is not None
            return self._open(self._plan.tools.open(self._writer), text[len(said) : end], text[end:])
        self.mode, self._trim = target, True
        return text[end:]

    def _overlap(self, text: str) -> int:
        """Length of the longest end of the text that begins a marker or stop string."""
        longest = self._longest[self.mode] - 1
        if longest < 1:
            return 0
        tail = text[-longest:]
        if self._first[self.mode].isdisjoint(tail):
            return 0
        for start in range(len(tail)):
            end = tail[start:]
            if any(needle.startswith(end) for needle, _ in self._needles[self.mode]):
                return len(end)
        return 0

    def _say(self, text: str) -> None:
        if text:
            self._calls()
            kind: Kind = "reasoning" if self.mode == "reasoning" else "text"
            self._bare = self._bare and kind == "reasoning"
            if self._parts and self._parts[-1][0] == kind:
                self._parts[-1] = (kind, f"{self._parts[-1][1]}{text}")
            else:
                self._parts.append((kind, text))

    # -- what is called ------------------------------------------------------------------------------

    def _open(self, reader: Reader, marker: str, rest: str) -> str:
        next(reader)
        self._reader, self._back, self.mode, self._bare = reader, self.mode, "call", False
        self._writer.raw.append(marker)
        return rest

    def _read(self, text: str) -> str:
        """Let the reader have it; what is left when the calls are over."""
        assert self._reader is not None
        send, raw = self._reader.send, self._writer.raw
        for at, c in enumerate(text):
            raw.append(c)
            try:
                send(c)
            except StopIteration:
                return self._over() + text[at + 1 :]
            except Broken as broken:
                return self._broken(broken) + text[at + 1 :]
            except Enough:
                self.done = True
                return ""
        return ""

    def _end_call(self, cut: bool) -> str:
        assert self._reader is not None
        if cut and self._writer.current is not None:
            return ""  # what there is of the arguments stands
        try:
            self._reader.send(None)
        except StopIteration:
            return self._over()
        except Broken as broken:
            return self._broken(broken)
        except Enough:
            return ""
        raise RuntimeError("a reader of tool calls goes on behind the end")

    def _over(self) -> str:
        """The calls are whole; what was read behind them."""
        text = "".join(self._writer.raw)
        self._writer.raw.clear()
        self._reader, self.mode, self._trim = None, "content", True
        return text

    def _broken(self, broken: Broken) -> str:
        """Give back what no call accounts for; what is to be read again."""
        text = "".join(self._writer.raw)
        self._writer.raw.clear()
        self._reader, self.mode = None, self._back
        if broken.quiet:
            return text
        self._say(text)
        self._calls()
        begun = self._writer.current
        what = (
            "a tool call does not parse and came as text"
            if begun is None
            else f"the call to {begun} broke off"
        )
        self._parts.append(("warning", f"{what}: {broken}"))
        self._writer.current = None
        return ""

    def _calls(self) -> None:
        """Put what was called in its place, before what comes next."""
        if self._writer.parts:
            self._parts += [("call", part) for part in self._writer.take()]
