"""`lmx metrics`: how fast it is and how much is left, at a glance. /metrics is the same for machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, NotRunning
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.status import LEVEL_STYLE, STATE_STYLE, SUMMARY_STYLE
from appliance.cli.terminal import Block, Span, line, on_terminal, refresh, show, show_json, table

WIDTH = 40  # characters of the memory bar


def metrics(
    watch: Annotated[
        str | None, typer.Option("-w", "--watch", metavar="2s", help="Look again so often, until ^C.")
    ] = None,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Show speed, queue, memory and the models at a glance.

    In a pipe --watch prints one line per look.
    """
    every = _every(watch)
    with connect(file, url) as appliance:
        if every is None:
            found = reading(appliance.get("/status"))
            show_json(found) if output is Format.JSON else show(*page(found))
        elif output is Format.JSON:
            for found in _looks(appliance, every):
                show_json(found, one_line=True)
        elif on_terminal():
            refresh(page(found) for found in _looks(appliance, every))
        else:
            for found in _looks(appliance, every):
                show(line(plain(found)))


def _every(watch: str | None) -> float | None:
    if watch is None:
        return None
    from reconciler.units import parse_duration

    try:
        seconds = parse_duration(watch)
    except ValueError as error:
        raise CliError(f"--watch: {error}; write it with a unit, like 2s or 500ms.") from error
    if seconds < 0.1:
        raise CliError("--watch: at least 100ms between two looks.")
    return seconds


def _looks(appliance: Appliance, every: float) -> Iterator[dict[str, Any]]:
    """While nobody answers after a first success: {"down": why}."""
    yield reading(appliance.get("/status"))
    while True:
        time.sleep(every)
        try:
            yield reading(appliance.get("/status"))
        except NotRunning as error:
            yield {"at": time.time(), "down": error.message}


def reading(status: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the status document that moves. Stable, for -o json."""
    models = status.get("models") or {}
    return {
        "at": time.time(),
        "name": status.get("name"),
        "summary": status.get("summary"),
        "traffic": status.get("traffic") or {},
        "memory": status.get("memory") or {},
        "thermal": status.get("thermal") or {},
        "breakers": status.get("breakers") or {},
        "models": {
            name: {
                key: model.get(key) for key in ("state", "reason", "context", "concurrency", "memory", "slo")
            }
            for name, model in models.items()
        },
    }


def plain(found: Mapping[str, Any]) -> str:
    """One look as `name=value` pairs; `-` for what is not known."""
    if "down" in found:
        return f"{wording.clock(found['at'])} down: {found['down']}"
    traffic, memory = found["traffic"], found["memory"]
    used, budget = memory.get("used_bytes"), memory.get("budget_bytes")
    pairs = {
        "tokens_per_s": traffic.get("tokens_per_s"),
        "ttft_p50_ms": traffic.get("ttft_p50_ms"),
        "ttft_p95_ms": traffic.get("ttft_p95_ms"),
        "in_flight": traffic.get("in_flight"),
        "queued": traffic.get("queued"),
        "memory": f"{used / budget:.1%}" if used is not None and budget else None,
        "level": memory.get("level"),
        "step": memory.get("step"),
        "heat": found["thermal"].get("level"),
    }
    words = " ".join(f"{key}={'-' if value in (None, '') else value}" for key, value in pairs.items())
    return f"{wording.clock(found['at'])} {words}"


def page(found: Mapping[str, Any]) -> list[Block]:
    if "down" in found:
        return [line((str(found["down"]), "red"))]
    word = str(found.get("summary") or "Unknown")
    symbol = SUMMARY_STYLE.get(word, ("?", "bold"))
    blocks: list[Block] = [line((str(found.get("name")), "bold"), "  ", (word, symbol[1]), symbol=symbol)]
    blocks += _traffic(found["traffic"])
    blocks += _memory(found["memory"])
    heat = found["thermal"].get("level")
    if heat is not None:
        blocks.append(line(("heat      ", "dim"), (str(heat), LEVEL_STYLE.get(str(heat), "yellow"))))
    for name, breaker in found["breakers"].items():
        if breaker.get("state") != "closed":
            again = breaker.get("retry_in")
            when = f", tried again in {wording.duration(again)}" if again is not None else ""
            words = f"{name} is {breaker.get('state')}{when}: {breaker.get('why')}"
            blocks.append(line(("breaker   ", "dim"), (words, "yellow")))
    if found["models"]:
        blocks += [line(), _models(found["models"])]
    return blocks


def _traffic(traffic: Mapping[str, Any]) -> Iterator[Block]:
    p50, p95 = traffic.get("ttft_p50_ms"), traffic.get("ttft_p95_ms")
    first = f"{p50:.0f} ms p50, {p95:.0f} ms p95" if p50 is not None and p95 is not None else "-"
    yield line(("speed     ", "dim"), f"{traffic.get('tokens_per_s') or 0:.0f} tokens/s, first token {first}")
    words = f"{traffic.get('in_flight') or 0} running, {traffic.get('queued') or 0} queued"
    yield line(("requests  ", "dim"), words)


def _memory(memory: Mapping[str, Any]) -> Iterator[Block]:
    used, budget = memory.get("used_bytes"), memory.get("budget_bytes")
    if used is None or not budget:
        yield line(("memory    ", "dim"), "-")
        return
    level = str(memory.get("level") or "")
    style = LEVEL_STYLE.get(level, "")
    figures = f" {wording.size(used)} of {wording.size(budget)} ({used / budget:.0%})  "
    yield line(("memory    ", "dim"), *bar(memory, style), figures, (level, style))
    marks = [
        f"{name} at {wording.size(memory[f'{name}_bytes'])}"
        for name in ("warning", "critical")
        if memory.get(f"{name}_bytes")
    ]
    if marks:
        yield line(("          ", "dim"), (", ".join(marks), "dim"))
    if memory.get("step"):
        yield line(("step      ", "dim"), (str(memory["step"]), "yellow"), f"  {memory.get('why') or ''}")


def bar(memory: Mapping[str, Any], style: str) -> list[Span]:
    """The budget as a bar: what is used, and `|` where warning and critical begin."""
    budget = memory["budget_bytes"]
    filled = round(min(1.0, memory["used_bytes"] / budget) * WIDTH)
    cells = ["█"] * filled + ["·"] * (WIDTH - filled)
    for name in ("warning_bytes", "critical_bytes"):
        at = memory.get(name)
        if at:
            cells[min(WIDTH - 1, round(at / budget * WIDTH))] = "|"
    return ["[", ("".join(cells), style), "]"]


def _models(models: Mapping[str, Any]) -> Block:
    rows: list[list[Span]] = []
    for name, model in models.items():
        state = str(model.get("state") or "-")
        measured = (model.get("memory") or {}).get("measured_bytes")
        slo = model.get("slo") or {}
        note = slo.get("why") or model.get("reason") or _why(model)
        rows.append(
            [
                name,
                (state, STATE_STYLE.get(state, "dim")),
                limit(model.get("concurrency")),
                limit(model.get("context")),
                wording.size(measured) if measured else "-",
                str(note or ""),
            ]
        )
    return table(("MODEL", "STATE", "ROWS", "CONTEXT", "MEMORY", "NOTE"), rows)


def _why(model: Mapping[str, Any]) -> str:
    return str((model.get("concurrency") or {}).get("why") or "")


def limit(found: Mapping[str, Any] | None) -> Span:
    effective, declared = (found or {}).get("effective"), (found or {}).get("declared")
    if effective is None:
        return "-"
    if isinstance(declared, int) and declared != effective:
        return f"{effective} of {declared}", "yellow"
    return str(effective)
