"""`lmx status`: what the appliance does, and why. Turns the status document into a page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, NotRunning
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import Block, Span, line, refresh, show, show_json, table
from appliance.holder.move import in_words

EVERY = 1.0  # seconds between two looks with -w

# The state each condition is in when nothing needs a person's attention. Others are shown whenever not False.
GOOD_WHEN_TRUE = frozenset(
    {"Ready", "Synced", "ConfigAccepted", "SourceReady", "CacheReady", "KeysReady", "SourceVerified"}
)
SUMMARY_STYLE = {
    "Ready": ("●", "bold green"),
    "Reconciling": ("◐", "bold cyan"),
    "Degraded": ("▲", "bold yellow"),
    "Suspended": ("‖", "bold yellow"),
    "Stalled": ("✗", "bold red"),
    "NotReady": ("✗", "bold red"),
}
STATE_STYLE = {
    "ready": "green",
    "loading": "cyan",
    "probing": "cyan",
    "downloading": "cyan",
    "draining": "yellow",
    "failed": "red",
    "quarantined": "red",
    "starting": "cyan",
    "left_alone": "red",
}
LEVEL_STYLE = {"normal": "green", "nominal": "green", "warning": "yellow", "critical": "bold red"}


def status(
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Refresh every second, until ^C.")] = False,
) -> None:
    """Show what the appliance does and why."""
    with connect(file, url) as appliance:
        if not watch:
            document = appliance.get("/status")
            show_json(document) if output is Format.JSON else show(*page(document))
        elif output is Format.JSON:
            for document in _looks(appliance):
                show_json(document, one_line=True)
        else:
            refresh(
                page(document) if "summary" in document else [line(document["down"])]
                for document in _looks(appliance)
            )


def _looks(appliance: Appliance) -> Iterator[dict[str, Any]]:
    """The document, again and again. While nobody answers after a first success: {"down": why}."""
    yield appliance.get("/status")
    while True:
        time.sleep(EVERY)
        try:
            yield appliance.get("/status")
        except NotRunning as error:
            yield {"down": error.message}


def page(document: Mapping[str, Any]) -> list[Block]:
    """The status document as people read it, most important first."""
    word = str(document.get("summary", "Unknown"))
    symbol = SUMMARY_STYLE.get(word, ("?", "bold"))
    age, version = wording.duration(document.get("uptime_s") or 0), document.get("version", "?")
    blocks: list[Block] = [
        line(
            (str(document.get("name", "")), "bold"),
            "  ",
            (word, symbol[1]),
            (f"  generation {document.get('generation', '-')}, up {age}, LMX {version}", "dim"),
            symbol=symbol,
        )
    ]
    blocks += _facts(document)
    blocks += _service(document.get("service") or {})
    blocks += _models(document.get("models") or {})
    blocks += _skills(document.get("skills") or {})
    blocks += _conditions(document.get("conditions") or [])
    blocks += _plan(document.get("plan") or [])
    return blocks


def _facts(document: Mapping[str, Any]) -> Iterator[Block]:
    active = document.get("active") or {}
    desired, actual = active.get("desired"), active.get("actual")
    answer: list[Span] = [("none", "dim")] if actual is None else [(str(actual), "bold")]
    if desired != actual:
        answer.append((f"  (wanted: {desired or 'none'})", "yellow"))
    yield line(("active   ", "dim"), *answer)

    tried = document.get("try")
    if tried:
        paths = ", ".join(str(change["path"]) for change in tried["changes"])
        yield line(("tried    ", "dim"), (f"{_left(tried)}, by {tried['by']}", "yellow"), f"  {paths}")

    memory = document.get("memory") or {}
    used, budget = memory.get("used_bytes"), memory.get("budget_bytes")
    if used is not None and budget:
        level = str(memory.get("level") or "")  # nothing where pressure is not watched
        spans: list[Span] = [
            ("memory   ", "dim"),
            f"{wording.size(used)} of {wording.size(budget)} ({used / budget:.0%})",
        ]
        spans.append((f"  {level}", LEVEL_STYLE.get(level, "")))
        if memory.get("step"):
            spans.append((f"  step: {memory['step']}", "yellow"))
        yield line(*spans)
    thermal = (document.get("thermal") or {}).get("level")
    if thermal not in (None, "unknown"):
        yield line(("heat     ", "dim"), (str(thermal), LEVEL_STYLE.get(str(thermal), "yellow")))
    traffic = document.get("traffic") or {}
    if traffic:
        words = f"{traffic.get('in_flight') or 0} running, {traffic.get('queued') or 0} queued"
        if traffic.get("tokens_per_s"):
            words += f", {traffic['tokens_per_s']:.0f} tokens/s"
        if traffic.get("ttft_p50_ms") is not None:
            words += f", first token {traffic['ttft_p50_ms']:.0f} ms p50"
            if traffic.get("ttft_p95_ms") is not None:
                words += f", {traffic['ttft_p95_ms']:.0f} ms p95"
        yield line(("traffic  ", "dim"), words)
    source = document.get("source") or {}
    if source:
        revision = f" at {str(source['revision'])[:12]}" if source.get("revision") else ""
        yield line(("source   ", "dim"), f"{source.get('path', '-')}{revision}")


def _service(service: Mapping[str, Any]) -> Iterator[Block]:
    """What a holder has started, since when, and how the last upgrade or switch went."""
    if not service.get("holder"):
        return
    profile = f", profile {service['profile']}" if service.get("profile") else ""
    stage = "" if service.get("stage") == "serving" else f", {service.get('stage')}"
    since = wording.ago(service.get("since"))
    yield line(("serves   ", "dim"), f"LMX {service.get('version')}{profile}, since {since}{stage}")
    last = service.get("last_upgrade")
    if last:
        style = "dim" if last.get("result") == "done" else "yellow"
        yield line(("         ", "dim"), (f"{wording.ago(last.get('at'))}: {in_words(last)}", style))


def _left(tried: Mapping[str, Any]) -> str:
    if tried["left_s"] is None:
        return "kept until the file changes"
    return f"{wording.duration(tried['left_s'])} left"


def over_the_file(document: Mapping[str, Any]) -> str:
    """What keeps the file from being what is in force, for a note; nothing where it is."""
    tried = document.get("try")
    if tried:
        return f"what is in force is {tried['what']} by {tried['by']}: {_left(tried)}"
    suspended = next((o for o in document.get("overrides") or [] if o["kind"] == "suspend"), None)
    if suspended:
        return f"suspended by {suspended['by']}: nothing changes before `lmx resume`"
    return ""


def _models(models: Mapping[str, Any]) -> Iterator[Block]:
    if not models:
        return
    rows: list[list[Span]] = []
    for name, model in models.items():
        state = str(model.get("state", "-"))
        memory = model.get("memory") or {}
        measured, forecast = memory.get("measured_bytes"), memory.get("forecast_bytes")
        amount = wording.size(measured) if measured else f"~{wording.size(forecast)}" if forecast else "-"
        done = progress(model.get("progress"))
        rows.append(
            [
                name,
                (
                    f"{state} {done:.0%}"
                    if done is not None and state not in ("ready", "on_disk")
                    else state,
                    STATE_STYLE.get(state, "dim"),
                ),
                _limit(model.get("context")),
                _limit(model.get("concurrency")),
                amount,
                str(model.get("reason") or ""),
            ]
        )
    yield line()
    yield table(("MODEL", "STATE", "CONTEXT", "ROWS", "MEMORY", "NOTE"), rows)


def _skills(skills: Mapping[str, Any]) -> Iterator[Block]:
    if not skills:
        return
    rows: list[list[Span]] = []
    for name, skill in skills.items():
        state, calls = str(skill.get("state", "-")), skill.get("calls") or {}
        failed = sum(calls.values()) - calls.get("ok", 0)
        count = f"{sum(calls.values())}" + (f", {failed} not ok" if failed else "")
        words = [str(skill.get("reason") or "")]
        words += [f"{tool} is left out: {why}" for tool, why in (skill.get("left_out") or {}).items()]
        note = "; ".join(filter(None, words))
        offered = len(skill.get("tools") or ())
        rows.append([name, (state, STATE_STYLE.get(state, "dim")), str(offered), count, note])
    yield line()
    yield table(("SKILL", "STATE", "TOOLS", "CALLS", "NOTE"), rows)


def progress(value: Any) -> float | None:
    """{"done", "total"} in bytes as a part of one."""
    return float(value["done"]) / float(value["total"]) if value and value["total"] else None


def _limit(limit: Mapping[str, Any] | None) -> Span:
    """`4096`, or `4096 of 131072` where degraded below what was declared."""
    effective, declared = (limit or {}).get("effective"), (limit or {}).get("declared")
    if effective is None:
        return str(declared) if isinstance(declared, int) else ("-", "dim")
    if isinstance(declared, int) and declared != effective:
        return f"{effective} of {declared}", "yellow"
    return str(effective)


def _conditions(conditions: list[Mapping[str, Any]]) -> Iterator[Block]:
    """Only what is not as it should be. The whole list is in -o json."""
    odd = [c for c in conditions if c["status"] == ("False" if c["type"] in GOOD_WHEN_TRUE else "True")]
    if odd:
        yield line()
        yield table(
            ("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"),
            [
                [
                    c["type"],
                    (
                        c["status"],
                        "red"
                        if c["type"] in ("Ready", "Stalled", "ConfigAccepted", "SourceReady")
                        else "yellow",
                    ),
                    str(c.get("reason") or ""),
                    wording.ago(c.get("last_transition")),
                    str(c.get("message") or ""),
                ]
                for c in odd
            ],
        )


def _plan(steps: list[Mapping[str, Any]]) -> Iterator[Block]:
    if steps:
        yield line()
        yield table(
            ("PLAN", "MODEL", "FORCED BY", "WHY"),
            [[str(s.get(key) or "") for key in ("action", "model", "field", "reason")] for s in steps],
        )
