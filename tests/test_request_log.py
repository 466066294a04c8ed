"""One line per request at its end, and no flood of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from appliance import request_log
from appliance.logs import FIELDS
from appliance.request_log import LINES, RequestLog
from appliance.supervisor.record import Caller, Ended, Refused

pytestmark = pytest.mark.anyio

CALLER = Caller(session="secret-session", request_id="req_1", path="/v1/chat/completions")


def ended(**changes: Any) -> Ended:
    members: dict[str, Any] = {
        "model": "demo",
        "engine": "demo-1",
        "priority": 100,
        "asked": 10.0,
        "started": 10.1,
        "first_token": 10.25,
        "ended": 11.5,
        "tokens": 40,
        "prompt_tokens": 12,
        "cached_tokens": 8,
        "outcome": "ok",
        "rows": 1.0,
        "known": False,
        "caller": CALLER,
    }
    return Ended(**{**members, **changes})


def refused(code: str = "overloaded") -> Refused:
    return Refused("demo", code, 10.0, 10.0, False, CALLER)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [getattr(record, FIELDS) for record in caplog.records]


async def test_a_line_carries_what_an_operator_asks_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = RequestLog()
    log.generation, log.step = 7, "throttle"
    log.ended(ended())
    assert told(caplog) == [
        {
            "request_id": "req_1",
            "route": "/v1/chat/completions",
            "model": "demo",
            "engine": "demo-1",
            "generation": 7,
            "step": "throttle",
            "prompt_tokens": 12,
            "cached_tokens": 8,
            "tokens": 40,
            "ttft_ms": 250.0,
            "duration_ms": 1500.0,
            "code": "ok",
        }
    ]
    assert "secret-session" not in caplog.text


async def test_a_path_that_is_none_of_ours_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caller = Caller(request_id="req_2", path="/v1/sk-a-key-in-the-wrong-place")
    RequestLog().refused(Refused("", "not_found", 1.0, 1.0, False, caller))
    assert told(caplog)[0]["route"] == "other"
    assert "sk-a-key" not in str(caplog.records[0].__dict__)


async def test_refusals_in_bulk_become_one_line_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "EACH_S", 0.05)
    caplog.set_level(logging.INFO)
    summed = asyncio.Event()
    caplog.handler.addFilter(lambda record: "more requests" not in record.msg or summed.set() is None)
    log = RequestLog()
    for _ in range(1000):
        log.refused(refused())
    for _ in range(3):
        log.refused(refused("model_swapping"))
    assert len(told(caplog)) == LINES + 3
    await asyncio.wait_for(summed.wait(), 10)
    sums = [line for line in told(caplog) if "count" in line]
    assert [(line["code"], line["count"]) for line in sums] == [("overloaded", 1000 - LINES)]
    log.refused(refused())  # a new second: told again
    assert "count" not in told(caplog)[-1]
