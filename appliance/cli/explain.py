"""`lmx explain MODEL`: its state and why, what bounds it, what would change that, what happened to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.events import told
from appliance.cli.failure import CliError
from appliance.cli.metrics import limit
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.status import STATE_STYLE
from appliance.cli.terminal import Block, Span, line, show, show_json
from appliance.cli.timeline import concerns, stored

EVENTS = 20


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its key in the file.")],
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Explain one model: its state, its limits, what would change them, and its last events."""
    with connect(file, url) as appliance:
        status = appliance.get("/status")
        models = status.get("models") or {}
        if model not in models:
            names = ", ".join(models) or "none"
            raise CliError(f"the appliance knows no model {model!r}. It knows: {names}.")
        steps = [s for s in appliance.get("/admin/plan")["plan"] if s.get("model") == model]
        events = list(deque((e for e in stored(appliance, status) if concerns(e, model)), EVENTS))
    found = explanation(model, status, steps, events)
    show_json(found) if output is Format.JSON else show(*page(found))


def explanation(
    name: str, status: Mapping[str, Any], steps: list[dict[str, Any]], events: list[dict[str, Any]]
) -> dict[str, Any]:
    model, active = status["models"][name], status.get("active") or {}
    return {
        "model": name,
        **{key: model.get(key) for key in ("state", "reason", "since", "context", "concurrency", "memory")},
        "slo": model.get("slo"),
        "cache": model.get("cache"),
        "chat": model.get("chat"),
        "active": {"desired": active.get("desired") == name, "actual": active.get("actual") == name},
        "machine": {"memory": status.get("memory"), "thermal": status.get("thermal")},
        "plan": steps,
        "would_change": list(_would_change(name, model, status)),
        "events": events,
    }


def _would_change(name: str, model: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    """What has to happen for the state or a limit to be another, most pressing first."""
    state, memory = model.get("state"), status.get("memory") or {}
    match state:
        case "failed":
            yield f"mend what its reason names, or edit models.{name}; `lmx reconcile` tries at once"
        case "quarantined":
            yield f"an edit of models.{name}, or `lmx reconcile`: until then it is left alone"
        case "on_disk":
            yield f"`lmx models load {name}`, or active: {name}, or models.{name}.residency: loaded"
        case "paged_out":
            yield f"a request for {name} brings it back"
        case "absent" | "downloading":
            yield "its files, once they are complete"
        case "loading" | "probing":
            yield "time: it is on its way"
    if memory.get("step"):
        yield (
            f"memory use under memory.recover for memory.dwell undoes the step {memory['step']}"
            + ("; other programs cause the pressure" if memory.get("cause") == "others" else "")
        )
    if (status.get("thermal") or {}).get("hot"):
        yield "cooler than thermal.leave for memory.dwell brings the context ceilings back"
    if (model.get("slo") or {}).get("stage"):
        yield "figures inside its service levels (slo) for a minute end the guardrails, one stage at a time"
    for key in ("context", "concurrency"):
        found = model.get(key) or {}
        declared, effective = found.get("declared"), found.get("effective")
        if (
            isinstance(declared, int)
            and effective is not None
            and effective < declared
            and not found.get("why")
        ):
            yield f"models.{name}.{key}: {effective} is in force, not the declared {declared}"


def page(found: Mapping[str, Any]) -> list[Block]:
    state, since = str(found["state"]), found.get("since")
    head: list[Span] = [(found["model"], "bold"), "  ", (state, STATE_STYLE.get(state, "dim"))]
    if since is not None:
        head.append((f"  since {wording.clock(since)}, {wording.ago(since)}", "dim"))
    blocks: list[Block] = [line(*head)]
    if found.get("reason"):
        blocks.append(_fact("why", str(found["reason"])))
    if found["active"]["actual"]:
        blocks.append(_fact("role", "active: it answers requests that name no model"))
    elif found["active"]["desired"]:
        blocks.append(_fact("role", "active in the spec, but another model answers now"))
    for key, word in (("context", "context"), ("concurrency", "rows")):
        bound = found.get(key) or {}
        why = f"  {bound['why']}" if bound.get("why") else ""
        declared = f" (declared: {bound.get('declared')})" if bound.get("declared") == "auto" else ""
        blocks.append(_fact(word, limit(bound), f"{declared}{why}"))
    blocks.append(_fact("memory", _memory(found.get("memory") or {})))
    blocks += _cache(found.get("cache"))
    blocks += _chat(found.get("chat"))
    blocks += _machine(found["machine"])
    slo = found.get("slo") or {}
    if slo.get("stage"):
        blocks.append(_fact("service", (f"stage {slo['stage']}", "yellow"), f"  {slo.get('why')}"))
    for step in found["plan"]:
        blocks.append(_fact("plan", f"{step.get('action')}: {step.get('reason')}"))
    for words in found["would_change"]:
        blocks.append(_fact("change", words))
    blocks.append(line())
    if found["events"]:
        blocks += [told(event) for event in found["events"]]
    else:
        blocks.append(line(("nothing has happened to it yet", "dim")))
    return blocks


def _machine(machine: Mapping[str, Any]) -> Iterator[Block]:
    memory, thermal = machine.get("memory") or {}, machine.get("thermal") or {}
    if memory.get("level") not in (None, "normal") or memory.get("step"):
        step = f", step {memory['step']}" if memory.get("step") else ""
        yield _fact(
            "machine", (f"memory {memory.get('level')}{step}", "yellow"), f"  {memory.get('why') or ''}"
        )
    if thermal.get("hot"):
        yield _fact("machine", (f"heat {thermal.get('level')}", "yellow"), f"  {thermal.get('why') or ''}")


def _cache(cache: Mapping[str, Any] | None) -> Iterator[Block]:
    """How often prompts were found, and where."""
    if not cache:
        return
    memory, disk = cache["memory"], cache["disk"]
    asked = memory["hits"] + disk["hits"] + cache["misses"]
    if asked:
        rates = [
            f"{tier['hits'] / asked:.0%} from {name}" for name, tier in (("memory", memory), ("disk", disk))
        ]
        saved = f"{cache['tokens']:,} prompt tokens not computed again"
        yield _fact("cache", f"{wording.plural(asked, 'prompt')}: {', '.join(rates)}; {saved}")
    else:
        yield _fact("cache", "no prompt yet that is long enough to be kept")
    held = f"{wording.size(memory['bytes'])} of {wording.size(memory['limit_bytes'] or 0)} in memory"
    held += (
        f", {wording.size(disk['bytes'])} on disk" if disk["state"] == "ready" else f", disk {disk['state']}"
    )
    if cache["damaged"]:
        held += f", {wording.plural(cache['damaged'], 'damaged file')} set aside"
    yield _fact("", held)
    if disk["state"] == "failed":
        yield _fact("", (f"disk: {disk['why'] or 'no reason was given'}", "yellow"))


def _chat(chat: Mapping[str, Any] | None) -> Iterator[Block]:
    """What it can do beside talking."""
    if not chat:
        return
    words = "its chat template has no place for it"
    if chat["thinks"]:
        budget = chat["thinking_budget"]
        words = "as long as it likes" if budget is None else f"at most {wording.plural(budget, 'token')}"
    yield _fact("thinking", words)
    if chat["tool_parser"] is None:
        yield _fact("tools", "its chat template has no place for them")
        return
    failed: tuple[Span, ...] = ()
    if count := chat["tool_failures"]:
        failed = (", ", (f"{wording.plural(count, 'call')} did not parse and came as text", "yellow"))
    yield _fact("tools", f"read as {chat['tool_parser']}", *failed)


def _memory(memory: Mapping[str, Any]) -> str:
    measured, forecast = memory.get("measured_bytes"), memory.get("forecast_bytes")
    words = [f"{wording.size(measured)} measured"] if measured else []
    words += (
        [f"{wording.size(memory['cached_bytes'])} of that lent to the prompt cache"]
        if memory.get("cached_bytes")
        else []
    )
    words += [f"{wording.size(forecast)} forecast at its context"] if forecast else []
    return ", ".join(words) or "-"


def _fact(name: str, *spans: Span) -> Block:
    return line((f"{name:<9}", "dim"), *spans)
