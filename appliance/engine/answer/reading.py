"""Readers of tool calls, one character at a time.

A reader is a generator that is sent the characters after its start marker, and None where the answer ends.
It returns where its calls are over: characters it was sent and has not accounted for in `Writer.raw` are
ordinary text again. It raises Broken where they are no calls. One character at a time makes it impossible
that the borders of tokens matter.

A call is announced once its name is complete and one of the offered, and its arguments have begun as an
object. From then on they are passed on as they come, checked so far to be JSON (a line break inside a string,
which models write as it is, is escaped). Where that ends in the middle, what was passed on stands: where
`max_tokens` ended it as OpenAI does it, else with a warning, and what follows is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator

from appliance.engine.answer.following import SPACE, Follower, NotJson, escaped
from appliance.engine.answer.writing import Broken, Writer

Reader = Generator[None, str | None, None]
Parse = Callable[[str], list[tuple[str, str]]]  # to names and arguments as JSON; raises Broken
Char = Generator[None, str | None, str]  # gives the next character, or what it read
ARGUMENTS = ("arguments", "parameters")
BARE = frozenset({"type", "id", "name", *ARGUMENTS})  # keys of a call without a marker
HEADER = 256  # characters: names and what stands around them are shorter

_KIMI = re.compile(r"\s*(?:functions\.)?(.+?):\d+\s*", re.DOTALL)
_K3_NAME = re.compile(r'<\|open\|>call\b.*?\btool="([^"]+)"', re.DOTALL)
_MISTRAL = re.compile(r"([\w-]+)\s*(?:\[CALL_ID\]\s*[\w-]+\s*)?")


def one() -> Char:
    """The next character."""
    c = yield
    if c is None:
        raise Broken("the answer ends inside it")
    return c


def solid() -> Char:
    """The next character that is no white space."""
    while (c := (yield from one())) in SPACE:
        pass
    return c


def after() -> Generator[None, str | None, str | None]:
    """As `solid`, where the answer may end."""
    while (c := (yield)) is not None and c in SPACE:
        pass
    return c


def literal(text: str) -> Char:
    for wanted in text:
        if (yield from one()) != wanted:
            raise Broken(f"{text} is missing")
    return text


def until(text: str) -> Char:
    """Everything up to `text`, which is short."""
    read = ""
    while not read.endswith(text):
        read += yield from one()
        if len(read) > HEADER:
            raise Broken(f"{text} is missing")
    return read[: -len(text)]


def string() -> Char:
    """The value of a JSON string whose opening quote has been read."""
    follower, read = Follower(), ['"']
    follower.feed('"')
    while not follower.done:
        c = yield from one()
        feed(follower, c)
        read.append(c)
    return str(json.loads("".join(read)))


def feed(follower: Follower, c: str) -> bool:
    try:
        return follower.feed(c)
    except NotJson as error:
        raise Broken(f"its JSON is broken: {error}") from None


def value(c: str, give: Callable[[str], None]) -> Char:
    """Pass on a JSON value that begins with `c`; the character that follows it and any white space."""
    follower = Follower()
    while True:
        if not follower.takes(c):
            c = escaped(c)
        elif not feed(follower, c):
            return (yield from solid()) if c in SPACE else c
        give(c)
        if follower.done:
            return (yield from solid())
        c = yield from one()


def call(writer: Writer, *, bare: bool = False) -> Reader:
    """An object with a name and arguments, whose brace has been read.

    bare: nothing but its keys says that it is a call.
    """
    known = False  # something beside the keys' names says it is one
    name: str | None = None
    kept: list[str] | None = None  # arguments before the name is known, or as a string
    seen = False

    def begin(named: str) -> None:
        nonlocal kept
        if kept is not None:
            text = unpacked("".join(kept))
            writer.begin(named)
            writer.arguments(text)
            kept = None

    try:
        c = yield from solid()
        while c != "}":
            if c != '"':
                raise Broken("its JSON is broken: a key is not a string")
            key = yield from string()
            if (yield from solid()) != ":":
                raise Broken("its JSON is broken: a key has no colon")
            c = yield from solid()
            if key == "name" and name is None:
                if c != '"':
                    raise Broken("its name is not a string")
                name = yield from string()
                if not bare:
                    writer.check(name)
                begin(name)
                c = yield from solid()
            elif key in ARGUMENTS and not seen:
                seen = known = True
                if name is not None and c == "{":
                    writer.begin(name)
                    c = yield from value(c, writer.arguments)
                else:
                    kept = []
                    c = yield from value(c, kept.append)
                    if name is not None:
                        begin(name)
            elif bare and key not in BARE:
                raise Broken(f"it has a key {key[:64]!r}")
            else:
                c = yield from value(c, lambda _: None)
            if c == ",":
                c = yield from solid()
                if c == "}":
                    raise Broken("its JSON is broken: a comma is too many")
            elif c != "}":
                raise Broken("its JSON is broken: a comma or a closing bracket is missing")
        if name is None or (bare and not seen):
            raise Broken("it has no name" if name is None else "it has no arguments")
        if not seen:
            writer.begin(name)
            writer.arguments("{}")
    except Broken as broken:
        broken.quiet = bare and not known
        raise
    writer.finish()


def unpacked(text: str) -> str:
    """Arguments that are not written as an object, as one. Raises Broken."""
    try:
        found = json.loads(text)
        if isinstance(found, str):  # an object inside a string
            text, found = found, json.loads(found)
            text.encode()  # half a surrogate pair cannot be sent
    except (ValueError, RecursionError):  # a string may hold what is nested deeper than `Follower` lets pass
        raise Broken("its arguments are not an object") from None
    if found is None:
        return "{}"
    if not isinstance(found, dict):
        raise Broken("its arguments are not an object")
    return text


def objects(writer: Writer, end: str = "", first: str = "") -> Reader:
    """`{...}`, several of them, or a list of them; then `end`, if there is one. first: what has been read."""
    c: str | None = first or (yield from solid())
    listed = c == "["
    if listed:
        c = yield from solid()
    if c != "{":
        raise Broken("it is not a JSON object")
    while c == "{":
        yield from call(writer)
        c = yield from after()
        if listed and c == "]":
            listed, c = False, (yield from after())
        elif c is not None and c in ",;":
            c = yield from after()
    yield from close(writer, c, end)


def close(writer: Writer, c: str | None, *markers: str) -> Generator[None, str | None, str]:
    """Which of the markers stands behind whole calls, from `c` on.

    Empty: none, so what stands there is ordinary text, or the answer ended. A piece of a marker at the end of
    an answer is no text.
    """
    read = ""
    while c is not None:
        read += c
        if read in markers:
            writer.raw.clear()
            return read
        if not any(marker.startswith(read) for marker in markers):
            return ""
        c = yield
    writer.raw.clear()
    return ""


def bare(writer: Writer) -> Reader:
    """Llama 3's `{"name": ..., "parameters": {...}}`, from behind the brace; several with `;` between."""
    c: str | None = "{"
    while c == "{":
        yield from call(writer, bare=True)
        c = yield from after()
        if c is not None and c in ",;":
            c = yield from after()
    if c is None:
        writer.raw.clear()


def mistral(writer: Writer, marker: str) -> Reader:
    """`[{"name": ..., "arguments": ...}, ...]`, or `NAME[ARGS]{...}` any number of times."""
    c: str | None = yield from solid()
    if c is not None and c in "[{":
        yield from objects(writer, first=c)
        return
    whole = False
    while c is not None:
        try:
            match = _MISTRAL.fullmatch(c + (yield from until("[ARGS]")))
        except Broken:
            match = None
        if match is None:
            if whole:
                return  # what follows a call need not be one
            raise Broken("it is neither a list of calls nor a name with [ARGS]")
        yield from named(writer, match[1])
        whole = True
        c = yield from after()
        if c == "[":
            if not (yield from close(writer, c, marker)):
                return
            c = yield from solid()
    writer.raw.clear()


def named(writer: Writer, name: str) -> Reader:
    """The arguments of a call whose name has been read."""
    writer.check(name)
    c = yield from solid()
    if c != "{":
        raise Broken("its arguments are not an object")
    writer.begin(name)
    follower = Follower()
    while True:
        if follower.takes(c):
            feed(follower, c)
        else:
            c = escaped(c)
        writer.arguments(c)
        if follower.done:
            return writer.finish()
        c = yield from one()


KIMI_CALL, KIMI_ARGUMENTS, KIMI_END = (
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)


def kimi_k2(writer: Writer, end: str) -> Reader:
    """`<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>`, repeated."""
    header = (yield from solid()) + (yield from until(KIMI_ARGUMENTS))
    while True:
        match = _KIMI.fullmatch(header.removeprefix(KIMI_CALL))
        if match is None:
            raise Broken("it has no name")
        yield from named(writer, match[1])
        found = yield from close(writer, (yield from after()), KIMI_END, end)
        if found == KIMI_END:
            found = yield from close(writer, (yield from after()), KIMI_CALL, end)
        if found != KIMI_CALL:
            return
        header = yield from until(KIMI_ARGUMENTS)


K3_CALL, K3_CALLED = "<|open|>call", "<|close|>call<|sep|>"
K3_JSON, K3_DONE = "<|open|>json", "<|close|>json<|sep|>"
SEPARATOR = "<|sep|>"


def kimi_k3(writer: Writer, end: str, parse: Parse) -> Reader:
    """`<|open|>call tool="NAME" index="1"<|sep|>`, arguments, `<|close|>call<|sep|>`, repeated.

    Arguments are one JSON object in `<|open|>json type="object"<|sep|>`, which is passed on as it comes, or
    are written one by one, which is left to `parse`.
    """
    opened = (yield from solid()) + (yield from until(SEPARATOR))
    while True:
        match = _K3_NAME.match(opened)
        if match is None:
            raise Broken("it has no name")
        first = (yield from solid()) + (yield from until(SEPARATOR))
        if first.startswith(K3_JSON):
            yield from named(writer, match[1].replace("&quot;", '"').replace("&amp;", "&"))
            found = yield from close(writer, (yield from after()), K3_DONE)
            found = found and (yield from close(writer, (yield from after()), K3_CALLED))
            if not found:
                return
        else:
            text = [opened, SEPARATOR, first, SEPARATOR]
            while not "".join(text[-len(K3_CALLED) :]).endswith(K3_CALLED):
                text.append((yield from one()))
            told(writer, parse("".join(text)))
        found = yield from close(writer, (yield from after()), K3_CALL, end)
        if found != K3_CALL:
            return
        opened = K3_CALL + (yield from until(SEPARATOR))


def marked(writer: Writer, end: str, parse: Parse) -> Reader:
    """Everything up to the end marker, or the answer's end, is left to `parse`."""
    text: list[str] = []
    while True:
        c = yield
        if c is None:
            if writer.cut:
                raise Broken("the answer ends inside it")
            break
        text.append(c)
        if end and c == end[-1] and "".join(text[-len(end) :]) == end:
            del text[-len(end) :]
            break
    told(writer, parse("".join(text)))


def told(writer: Writer, calls: list[tuple[str, str]]) -> None:
    """Whole calls, all of them or none."""
    for name, _ in calls:
        writer.check(name)
    for name, arguments in calls:
        writer.begin(name)
        writer.arguments(arguments)
        writer.finish()
