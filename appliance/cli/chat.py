"""`lmx chat`: talk to the model that is being served, as any other client would."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from appliance.cli.address import connect
from appliance.cli.client import Appliance
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Url
from appliance.cli.terminal import line, note, on_terminal, show

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
HELP = "/reset forgets the conversation, /exit or ^D leaves, ^C stops an answer."


def chat(
    question: Annotated[str | None, typer.Argument(help="Ask this once. Without it: a conversation.")] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", help="A model of the file, by name or alias.")
    ] = "default",
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 always gives the likeliest answer.")
    ] = None,
    file: File = DEFAULT_FILE,
    url: Url = None,
) -> None:
    """Talk to the model, or ask it one question (also from a pipe)."""
    options = {
        key: value
        for key, value in (("max_tokens", max_tokens), ("temperature", temperature))
        if value is not None
    }
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    with connect(file, url) as appliance:
        if question is None and not sys.stdin.isatty():
            question = sys.stdin.read().strip()
            if not question:
                raise CliError('there is no question: write `lmx chat "..."`, or pipe one in.')
        if question is not None:
            messages.append({"role": "user", "content": question})
            _say(_answer(appliance, {"model": model, "messages": messages, **options}))
        else:
            _converse(appliance, model, messages, options)


def _converse(
    appliance: Appliance, model: str, messages: list[dict[str, str]], options: dict[str, Any]
) -> None:
    """Until the person leaves. A failed request costs that one answer, not the conversation."""
    import readline  # noqa: F401  line editing and history in input()

    start = len(messages)
    appliance.get("/healthz")
    show(line((f"Talking to {model} at {appliance.url}. {HELP}", "dim")))
    while True:
        try:
            text = input("\n› ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if text in ("/exit", "/quit"):
            return
        if text == "/reset":
            del messages[start:]
            show(line(("Forgotten.", "dim")))
        elif text.startswith("/"):
            show(line((HELP, "dim")))
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                said = _say(_answer(appliance, {"model": model, "messages": messages, **options}))
            except CliError as error:
                print(f"\nlmx: {error.message}", file=sys.stderr)
                messages.pop()
            else:
                messages.append({"role": "assistant", **said})


def _say(pieces: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Print as it comes, and give it as parts of a message. A pipe gets the answer without the reasoning.

    ^C stops the answer and, by closing the connection, the model; what came is kept.
    """
    said = {"content": ""}
    thinking = False
    try:
        for kind, piece in pieces:
            said[kind] = said.get(kind, "") + piece
            if on_terminal() and thinking is not (kind == "reasoning_content"):
                thinking = not thinking
                print(DIM if thinking else f"{PLAIN}\n\n", end="")
                piece = piece.lstrip("\n")
            if on_terminal() or kind == "content":
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" …" if on_terminal() else "", end="")
        if not sys.stdin.isatty():
            raise
    finally:
        print(PLAIN if thinking else "", end="")
    print()
    return said


def _answer(appliance: Appliance, body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pieces of the answer, each with the member of the message that it belongs to."""
    cut = False
    for event in appliance.events("/v1/chat/completions", {**body, "stream": True}):
        if event.data == "[DONE]":
            if cut:
                note("the answer was cut at its longest allowed length; --max-tokens allows more")
            return
        chunk = json.loads(event.data)
        if "error" in chunk:
            raise CliError(str(chunk["error"].get("message") or chunk["error"]))
        for choice in chunk.get("choices") or []:
            for kind in ("reasoning_content", "content"):
                if piece := choice["delta"].get(kind):
                    yield kind, piece
            if warning := choice.get("lmx_warning"):
                note(warning)
            cut = cut or choice.get("finish_reason") == "length"
    raise CliError("the answer broke off: the appliance closed the stream before its end.")
