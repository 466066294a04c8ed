"""What the parent and a skill's process say to each other: JSON, one message a line, over a socket pair.

parent                               skill's process
  | -- Setup ----------------------->  |  once, first
  | <- Ready (tools) | Failed          |  Ready again whenever the tools change
  | -- Call (number) --------------->  |
  | <- Result (number)                 |
  | -- Cancel (number) ------------->  |  MCP only: a process that runs a Python function is killed
  | <- Lost (why)                      |  MCP only: the server is gone; Ready follows when it is back
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

LINE = 16 * 1024 * 1024  # bytes of the longest message: arguments and results are held to far less

# ok: the text is the result. invalid_arguments: they do not fit the schema. refused: the tool itself says no,
# as to a city that it does not know. busy: no call came to its end in time for this one to begin.
Outcome = Literal[
    "ok",
    "invalid_arguments",
    "refused",
    "error",
    "out_of_memory",
    "too_large",
    "crashed",
    "timeout",
    "unavailable",
    "busy",
    "cancelled",
]
# The skill's own faults: they count against it.
FAULTS: frozenset[str] = frozenset(
    {"error", "out_of_memory", "too_large", "crashed", "timeout", "unavailable"}
)
OUTCOMES: tuple[str, ...] = Outcome.__args__  # type: ignore[attr-defined]


class Tool(msgspec.Struct, frozen=True):
    """parameters: a JSON Schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]


class Message(msgspec.Struct, tag_field="t", omit_defaults=True, frozen=True):
    """Base of every message."""


class Setup(Message, tag="setup", frozen=True):
    """memory: bytes, beyond what the process takes before it runs the skill. result: most bytes of a result.

    Exactly one of python, command and url is set. token: the bearer token itself, for url.
    """

    name: str
    folder: str  # of lmx.yaml
    memory: int
    result: int
    seconds: float  # a call's time limit
    python: str | None = None  # module:function
    description: str | None = None
    command: list[str] | None = None
    url: str | None = None
    token: str | None = None
    tools: list[str] | None = None  # only these
    env: dict[str, str] = {}  # for a command


class Call(Message, tag="call", frozen=True):
    number: int
    tool: str
    arguments: dict[str, Any]


class Cancel(Message, tag="cancel", frozen=True):
    number: int


class Ready(Message, tag="ready", frozen=True):
    """left_out: tools that cannot be offered, and why."""

    tools: list[Tool]
    left_out: dict[str, str] = {}


class Failed(Message, tag="failed", frozen=True):
    """It cannot start, and ends. In words, for the operator."""

    message: str


class Lost(Message, tag="lost", frozen=True):
    message: str


class Result(Message, tag="result", frozen=True):
    """text: what the model is told."""

    number: int
    outcome: Outcome
    text: str


ToHost = Setup | Call | Cancel
FromHost = Ready | Failed | Lost | Result

_encoder = msgspec.json.Encoder()
_to_host = msgspec.json.Decoder(ToHost)
_from_host = msgspec.json.Decoder(FromHost)


def encode(message: ToHost | FromHost) -> bytes:
    return _encoder.encode(message) + b"\n"


def decode_to_host(line: bytes) -> ToHost:
    """Raises msgspec.DecodeError."""
    message: ToHost = _to_host.decode(line)
    return message


def decode_from_host(line: bytes) -> FromHost:
    """Raises msgspec.DecodeError."""
    message: FromHost = _from_host.decode(line)
    return message


def printable(text: str) -> str:
    """Text that UTF-8 can carry: half of a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
