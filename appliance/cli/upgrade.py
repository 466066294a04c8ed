"""`lmx upgrade` and `lmx switch`: ask the holder for another version or profile, and watch it take over."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance import profiles
from appliance.cli import spec_file
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output
from appliance.cli.terminal import Busy, busy, line, show, show_json
from appliance.holder.place import Place

ANSWER_WITHIN = 10.0  # seconds for the holder, which never has much to do
BEAT_S = 5.0

Graceful = Annotated[
    bool,
    typer.Option(
        "--graceful/--drain-first",
        help="Start the next one beside what serves, where memory allows; or drain first.",
    ),
]
Within = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="How long it may take to be ready; default: swap.load_timeout."),
]


def upgrade(
    python: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The Python of another environment; default: the one that serves."),
    ] = None,
    graceful: Graceful = True,
    within: Within = None,
    file: File = DEFAULT_FILE,
    output: Output = Format.TEXT,
) -> None:
    """Let the LMX that is installed now take over from the one that serves; no connection is refused."""
    question: dict[str, Any] = {"do": "upgrade"}
    if python is not None:
        question["python"] = str(_python(python))
    _move(file, file, question, graceful, within, output)


def switch(
    to: Annotated[str, typer.Option("--to", metavar="PROFILE", help="Its name; base: FILE itself.")],
    graceful: Graceful = False,
    within: Within = None,
    file: File = DEFAULT_FILE,
    output: Output = Format.TEXT,
) -> None:
    """Serve another profile, lmx.PROFILE.yaml beside FILE; no connection is refused."""
    try:
        served = profiles.existing(file, to)
    except profiles.ProfileError as error:
        raise CliError(str(error)) from error
    question = {"do": "switch", "profile": None if served == file else to}
    _move(file, served, question, graceful, within, output)


def _python(path: Path) -> Path:
    """Absolute, but not resolved: a virtual environment's Python is a link."""
    found = path if path.is_absolute() else Path.cwd() / path
    if not found.is_file():
        raise CliError(f"there is no Python at {path}; name that of an environment, as in .venv/bin/python")
    return found


def _move(
    file: Path, served: Path, question: dict[str, Any], graceful: bool, within: str | None, output: Format
) -> None:
    """served: the file that is to be served then, which must be valid."""
    from reconciler.units import parse_duration

    swap = spec_file.read(served).spec.swap
    seconds = swap.load_timeout
    if within is not None:
        try:
            seconds = parse_duration(within)
        except ValueError as error:
            raise CliError(f"--within: {error}") from error
    question |= {"within_s": seconds, "strategy": swap.strategy if graceful else "drain_first"}
    last: dict[str, Any] = {}
    with busy("Starting ...") as spinner:
        for answer in _answers(file, question):
            last = answer
            _watch(answer, spinner)
    if not last.get("done"):
        raise CliError("the holder ended before the outcome was known; see `lmx status`.")
    if "error" in last:
        raise CliError(str(last["error"]))
    if output is Format.JSON:
        show_json(last["last"])
    if not last["ok"]:
        raise CliError(_failure(last["last"]))
    if output is Format.TEXT:
        after = last["last"]["to"]
        which = f"LMX {after['version']}, profile {after['profile'] or profiles.BASE}"
        show(line(f"{which}, serves; the one before finishes what it has begun", symbol=("✓", "green")))


def _watch(answer: dict[str, Any], spinner: Busy) -> None:
    if "message" in answer:
        spinner.say(str(answer["message"]))


def _failure(last: dict[str, Any]) -> str:
    kept = "what serves, serves on" if last["result"] == "failed" else "what served before was started again"
    return f"{str(last['reason']).rstrip('.')}; {kept}."


def _answers(file: Path, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the holder says, until it is done."""
    try:
        sock = Place(file).connect(ANSWER_WITHIN)
    except OSError as error:
        raise CliError(
            f"no holder serves {file}. `lmx upgrade` and `lmx switch` need one: start LMX with "
            f"`lmx serve -f {file}`, or as a service (`lmx launchd install`, `lmx systemd install`)."
        ) from error
    with contextlib.closing(sock):
        sock.settimeout(None)
        sock.sendall(json.dumps(question).encode() + b"\n")
        yield from _lines(sock)


def _lines(sock: socket.socket) -> Iterator[dict[str, Any]]:
    with sock.makefile("rb") as stream:
        for raw in stream:
            yield json.loads(raw)
