"""`lmx warmup`: short requests over the usual road, so that the first client finds a warm model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from appliance.cli.address import connect
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import Block, busy, line, show, show_json, table


def warmup(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Default: the active model.")] = None,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Load a model if need be, and run short requests at one and at several rows."""
    with connect(file, url) as appliance, busy(f"Warming up {model or 'the active model'} ..."):
        answer = appliance.post("/admin/warmup", {"model": model} if model else {}, patient=True)
    if output is Format.JSON:
        show_json(answer)
        return
    name, first = answer.get("model"), answer.get("first_answer_ms") or 0.0
    show(
        line(f"{name} is warm: its first answer took {first / 1000:.2f} s", symbol=("✓", "green")),
        table(
            ("ROWS", "FIRST TOKEN", "ALL", "TOKENS/S"),
            [
                (str(run["rows"]), f"{run['ttft_ms']} ms", f"{run['ms']} ms", str(run["tokens_per_s"]))
                for run in answer.get("runs") or []
            ],
        ),
        *(_template(one) for one in answer.get("templates") or []),
    )


def _template(one: Mapping[str, Any]) -> Block:
    if one.get("error"):
        return line(f"{one.get('name')}: {one['error']}", symbol=("✗", "red"))
    tokens, cached = one.get("prompt_tokens"), one.get("cached_tokens")
    took = f"{tokens} tokens in {one.get('ms')} ms, {cached} of them from before"
    return line(f"{one.get('name')} is in the prompt cache: {took}", symbol=("✓", "green"))
