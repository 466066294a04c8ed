"""`lmx events` and `lmx history`."""

from __future__ import annotations

import json

from tests.cli.standin import Appliance, Lmx, Reply, status_document


def sse(kind: str, ident: int | None = None, **data: object) -> str:
    body = json.dumps({"type": kind, "at": 1_700_000_000.0, **data}, ensure_ascii=False)
    return (f"id: {ident}\n" if ident else "") + f"event: {kind}\ndata: {body}\n\n"


def test_recent_events_are_listed_oldest_first(lmx: Lmx, appliance: Appliance) -> None:
    lines = lmx("events").out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("Started            LMX 0.1.0 started")
    assert lines[1].endswith("SpecRejected       lmx.yaml:3:1: no")
    assert [event["id"] for event in json.loads(lmx("events", "-o", "json").out)] == [1, 2]


def test_following_prints_events_as_they_come_and_leaves_out_telemetry(
    lmx: Lmx, appliance: Appliance
) -> None:
    events = [": hello\n\n", sse("telemetry", tokens_per_s=1), sse("Swapped", 7, message="a\u2028b")]
    appliance.on("GET /admin/events", Reply(events), Reply([sse("Applied", 8, message="done")]))
    process = lmx.start("events", "-f")
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert first.endswith("Swapped            a\u2028b\n")
    assert second.endswith("Applied            done\n")
    assert "connecting again" in said
    again = [headers for route, _, headers in appliance.asked if route == "GET /admin/events"][1]
    assert again["last-event-id"] == "7"


def test_following_goes_on_after_the_connection_broke(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(
        "GET /admin/events",
        Reply([sse("Swapped", 7, message="one")], breaks=True),
        Reply([sse("Applied", 8, message="two")]),
    )
    process = lmx.start("events", "-f", "-o", "json")
    assert process.stdout is not None
    told = [json.loads(process.stdout.readline())["message"] for _ in range(2)]
    process.terminate()
    process.communicate(timeout=60)
    assert told == ["one", "two"]


def test_telemetry_is_shown_when_asked_for(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /admin/events", Reply([sse("telemetry", tokens_per_s=41)]))
    process = lmx.start("events", "-f", "--telemetry")
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert '"tokens_per_s": 41' in line


def test_following_an_appliance_that_does_not_run_is_an_error(lmx: Lmx) -> None:
    result = lmx("events", "-f", "--url", "127.0.0.1:9")
    assert result.code == 1
    assert "no appliance answers" in result.err


def test_history_tells_which_generations_were_reached(lmx: Lmx, appliance: Appliance) -> None:
    lines = lmx("history").out.splitlines()
    assert lines[0].split() == ["GENERATION", "ACCEPTED", "REACHED", "READY", "DIGEST", "NOTE"]
    assert lines[1].startswith("3 ")
    assert lines[1].endswith("in force")
    assert lines[2].split()[3] == "-"
    assert json.loads(lmx("history", "-o", "json").out) == status_document()["history"]


def test_no_history_yet_is_said(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(history=[], events=[]))
    assert lmx("history").out == "No spec has been accepted yet.\n"
    assert lmx("events").out == "Nothing has happened yet.\n"
