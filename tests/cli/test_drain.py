"""`lmx drain` and `lmx warmup`."""

from __future__ import annotations

import json

from tests.cli.standin import Appliance, Lmx, status_document

BEGUN = {"success": True, "session_timeout_s": 0.0, "in_flight": 2, "queued": 1}
DRAINED = {"conditions": {"Ready": ("False", "Drained", "this machine is drained")}}


def traffic(in_flight: int, queued: int) -> dict[str, int]:
    return {"in_flight": in_flight, "queued": queued}


def test_drain_looks_until_nothing_is_in_flight(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/drain", BEGUN)
    appliance.on(
        "GET /status",
        status_document(**DRAINED, traffic=traffic(2, 1)),
        status_document(**DRAINED, traffic=traffic(0, 1)),
        status_document(**DRAINED, traffic=traffic(0, 0)),
    )
    result = lmx("drain", "--session-timeout", "5s")
    assert (result.code, result.out) == (0, "drained: nothing is in flight\n")
    assert "lmx drain --end" in result.err
    assert appliance.asked[0][1] == {"session_timeout": "5s"}
    assert len([route for route, _, _ in appliance.asked if route == "GET /status"]) == 3


def test_without_waiting_it_tells_what_is_left(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/drain", BEGUN)
    assert lmx("drain", "--no-wait").out == "draining: 2 in flight, 1 waiting\n"
    assert json.loads(lmx("drain", "--no-wait", "-o", "json").out) == BEGUN


def test_a_drain_that_somebody_ends_is_told(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("POST /admin/drain", BEGUN)
    appliance.on("GET /status", status_document(**DRAINED), status_document())
    result = lmx("drain")
    assert result.code == 1
    assert "ended by another call" in result.err


def test_the_end_takes_sessions_again(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("DELETE /admin/drain", {"success": True, "cleared": 1}, {"success": True, "cleared": 0})
    assert lmx("drain", "--end").out == "new sessions are taken again\n"
    assert lmx("drain", "--end").out == "it was not drained\n"


def test_warmup_shows_the_times(lmx: Lmx, appliance: Appliance) -> None:
    answer = {
        "success": True,
        "model": "demo",
        "first_answer_ms": 1234.0,
        "runs": [{"rows": 1, "ms": 20.5, "ttft_ms": 5.1, "tokens_per_s": 390.2}],
    }
    appliance.on("POST /admin/warmup", answer)
    lines = lmx("warmup").out.splitlines()
    assert lines[0] == "demo is warm: its first answer took 1.23 s"
    assert lines[2].split() == ["1", "5.1", "ms", "20.5", "ms", "390.2"]
    assert appliance.asked[-1][1] == {}
    lmx("warmup", "mini")
    assert appliance.asked[-1][1] == {"model": "mini"}
    assert json.loads(lmx("warmup", "-o", "json").out) == answer
