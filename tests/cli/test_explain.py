"""`lmx explain MODEL` and the filters of `lmx events`: one incident as one story."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.cli.standin import Appliance, Lmx, Reply, status_document

STORY: list[dict[str, Any]] = [
    {"type": "EngineReady", "message": "demo-1 is ready", "data": {"model": "demo", "engine": "demo-1"}},
    {"type": "EngineReady", "message": "demo-mini-2 is ready", "data": {"model": "demo-mini"}},
    {"type": "Action", "message": "~ configure demo-1: rows", "data": {"subject": "demo-1"}},
    {"type": "Action", "message": "~ configure demo-mini-2: rows", "data": {"subject": "demo-mini-2"}},
    {
        "type": "Pressure",
        "message": "memory pressure is warning, LMX's own use",
        "data": {"level": "warning"},
    },
    {"type": "StepTaken", "message": "shed: demo-mini leaves memory", "data": {"model": "demo-mini"}},
    {"type": "SloStage", "message": "demo: p95 2.4 s", "data": {"model": "demo", "stage": 1}},
    {
        "type": "EngineFailed",
        "message": "demo-1: killed by SIGKILL",
        "data": {"model": "demo", "reason": "crash"},
    },
]


def keep(appliance: Appliance, story: list[dict[str, Any]], **document: Any) -> None:
    """The appliance keeps these events; the newest two are in /status, and its stream never ends."""
    now = time.time()
    events = [{"id": n + 1, "at": now - 3600 * (len(story) - n), **event} for n, event in enumerate(story)]
    appliance.on("GET /status", status_document(events=events[-2:], **document))
    frames = [f"id: {e['id']}\nevent: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events]
    later = [f"event: telemetry\ndata: {json.dumps({'type': 'telemetry'})}\n\n"]
    appliance.on("GET /admin/events", Reply([": events\n\n", *frames, *later], breaks=True))


def messages(out: str) -> list[str]:
    return [event["message"] for event in json.loads(out)]


def test_events_of_one_model_are_its_own_and_the_machines(lmx: Lmx, appliance: Appliance) -> None:
    keep(appliance, STORY)
    assert messages(lmx("events", "--model", "demo", "-o", "json").out) == [
        "demo-1 is ready",
        "~ configure demo-1: rows",
        "memory pressure is warning, LMX's own use",
        "demo: p95 2.4 s",
        "demo-1: killed by SIGKILL",
    ]


CACHE: dict[str, Any] = {
    "memory": {"bytes": 3 * 2**20, "limit_bytes": 2**30, "hits": 6},
    "disk": {"bytes": 2**30, "state": "ready", "why": None, "hits": 3},
    "misses": 1,
    "damaged": 0,
    "tokens": 12345,
}


def test_the_prompt_cache_tells_how_often_it_helped_and_from_where(lmx: Lmx, appliance: Appliance) -> None:
    models = status_document()["models"]

    def told(**changes: Any) -> str:
        keep(appliance, STORY, models={**models, "demo": {**models["demo"], "cache": {**CACHE, **changes}}})
        appliance.on("GET /admin/plan", {"plan": []})
        shown = lmx.inside("explain", "demo")
        assert shown.code == 0, shown.err
        return shown.out

    assert "10 prompts: 60% from memory, 30% from disk; 12,345 prompt tokens not computed again" in told()
    assert "3.0 MiB of 1.0 GiB in memory, 1.0 GiB on disk\n" in told()
    failed = told(disk={**CACHE["disk"], "state": "failed", "why": "no space left on device"}, damaged=2)
    assert "in memory, disk failed, 2 damaged files set aside" in failed
    assert "disk: no space left on device" in failed
    none = {"hits": 0, "bytes": 0}
    fresh = told(memory={**CACHE["memory"], **none}, disk={**CACHE["disk"], **none}, misses=0)
    assert "no prompt yet that is long enough to be kept" in fresh


def test_how_a_model_thinks_and_calls_tools_is_told(lmx: Lmx, appliance: Appliance) -> None:
    models = status_document()["models"]

    def told(**chat: Any) -> list[str]:
        keep(appliance, STORY, models={**models, "demo": {**models["demo"], "chat": chat}})
        appliance.on("GET /admin/plan", {"plan": []})
        return lmx.inside("explain", "demo").out.splitlines()

    able = {"thinks": True, "thinking_budget": 500, "tool_parser": "json_tools", "tool_failures": 2}
    assert "thinking at most 500 tokens" in told(**able)
    assert "tools    read as json_tools, 2 calls did not parse and came as text" in told(**able)
    assert "thinking as long as it likes" in told(**{**able, "thinking_budget": None})
    unable = {"thinks": False, "thinking_budget": None, "tool_parser": None, "tool_failures": 0}
    assert "thinking its chat template has no place for it" in told(**unable)
    assert "tools    its chat template has no place for them" in told(**unable)


def test_events_by_type_in_any_case_and_by_age(lmx: Lmx, appliance: Appliance) -> None:
    keep(appliance, STORY)
    out = lmx("events", "--type", "stepTAKEN", "--type", "Pressure,SloStage", "-o", "json").out
    assert len(messages(out)) == 3
    assert messages(lmx("events", "--since", "2h30m", "-o", "json").out) == messages(
        lmx("events", "--type", "slostage,enginefailed", "-o", "json").out
    )
    assert lmx("events", "--type", "Listening").out == "No event is like that.\n"


def test_following_with_a_filter_leaves_out_the_rest(lmx: Lmx, appliance: Appliance) -> None:
    keep(appliance, STORY)
    process = lmx.start("events", "-f", "--since", "1d", "--model", "demo-mini")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    process.terminate()
    process.communicate(timeout=60)
    assert [line.split("  ")[-1].strip().partition(" ")[2][:20] for line in lines] != []
    assert "demo-mini-2 is ready" in lines[0]
    assert "configure demo-mini-2" in lines[1]
    assert "memory pressure" in lines[2]
    assert "shed" in lines[3]


def test_a_wrong_filter_is_refused_with_what_there_is(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("events", "--type", "Crashed")
    assert result.code == 1
    assert "there is no event type 'crashed'" in result.err
    assert "EngineFailed" in result.err
    result = lmx("events", "--since", "yesterday")
    assert result.code == 1
    assert "write it with a unit" in result.err


def test_explaining_a_model_that_runs_under_pressure(lmx: Lmx, appliance: Appliance) -> None:
    document = status_document()
    demo = document["models"]["demo"] | {
        "context": {"declared": 131072, "effective": 64000, "why": "lower_context: 7.0 GiB of 8.0 GiB"},
        "concurrency": {"declared": 8, "effective": 4, "why": "lower_concurrency: half of the rows"},
        "slo": {"stage": 1, "why": "p95 time to first token 2.4 s, line 2 s"},
    }
    memory = document["memory"] | {
        "level": "warning",
        "cause": "others",
        "step": "lower_context",
        "why": "7.0 GiB of 8.0 GiB",
    }
    keep(
        appliance,
        STORY,
        models={"demo": demo},
        memory=memory,
        thermal={"level": "heavy", "hot": True, "why": "t"},
    )
    appliance.on(
        "GET /admin/plan", {"plan": [{"action": "load", "model": "demo", "reason": "active names it"}]}
    )
    result = lmx("explain", "demo")
    assert (result.code, result.err) == (0, "")
    out = result.out
    assert out.startswith("demo  ready  since ")
    for line in (
        "role     active: it answers requests that name no model",
        "context  64000 of 131072  lower_context: 7.0 GiB of 8.0 GiB",
        "rows     4 of 8  lower_concurrency: half of the rows",
        "memory   2.0 GiB measured, 2.8 GiB forecast at its context",
        "machine  memory warning, step lower_context  7.0 GiB of 8.0 GiB",
        "machine  heat heavy  t",
        "service  stage 1  p95 time to first token 2.4 s, line 2 s",
        "plan     load: active names it",
    ):
        assert line in out.splitlines(), out
    assert "undoes the step lower_context; other programs cause the pressure" in out
    assert out.splitlines()[-1].endswith("demo-1: killed by SIGKILL")
    assert "demo-mini-2" not in out


def test_explaining_a_model_that_cannot_run_says_what_helps(lmx: Lmx, appliance: Appliance) -> None:
    demo = status_document()["models"]["demo"] | {
        "state": "quarantined",
        "reason": "three crashes",
        "since": None,
    }
    keep(appliance, STORY, models={"demo": demo})
    appliance.on("GET /admin/plan", {"plan": []})
    out = lmx("explain", "demo").out
    assert "why      three crashes" in out.splitlines()
    assert "an edit of models.demo, or `lmx reconcile`" in out


def test_explaining_as_json_carries_everything(lmx: Lmx, appliance: Appliance) -> None:
    keep(appliance, STORY)
    appliance.on("GET /admin/plan", {"plan": []})
    found = json.loads(lmx("explain", "demo", "-o", "json").out)
    assert (found["model"], found["state"], len(found["events"])) == ("demo", "ready", 5)
    assert found["active"] == {"desired": True, "actual": True}


def test_only_the_last_events_are_told(lmx: Lmx, appliance: Appliance) -> None:
    many = [{"type": "SloStage", "message": f"stage {n}", "data": {"model": "demo"}} for n in range(50)]
    keep(appliance, many)
    appliance.on("GET /admin/plan", {"plan": []})
    lines = lmx("explain", "demo").out.splitlines()
    assert lines[-20].endswith("stage 30")
    assert lines[-1].endswith("stage 49")
    assert not any(line.endswith("stage 29") for line in lines)


def test_a_model_that_nobody_knows_is_refused_with_the_names(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("explain", "dmeo")
    assert result.code == 1
    assert "knows no model 'dmeo'. It knows: demo, demo-mini." in result.err
