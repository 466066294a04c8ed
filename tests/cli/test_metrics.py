"""`lmx metrics`: at a glance for people, one line per look in a pipe, JSON for programs."""

from __future__ import annotations

import json

import pytest

from tests.cli.standin import Appliance, Lmx, Reply, status_document

GIB = 2**30
STRAINED = {
    "budget_bytes": 8 * GIB,
    "used_bytes": 7 * GIB,
    "warning_bytes": int(6.8 * GIB),
    "critical_bytes": int(7.2 * GIB),
    "level": "warning",
    "cause": "ours",
    "step": "throttle",
    "why": "7.0 GiB of 8.0 GiB (88 %)",
}


def test_once_it_is_a_page(lmx: Lmx, appliance: Appliance) -> None:
    result = lmx("metrics")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "studio-01  Ready"
    assert "speed     412 tokens/s, first token 80 ms p50, 211 ms p95" in lines
    assert "requests  3 running, 1 queued" in lines
    assert f"memory    [{'█' * 10}{'·' * 30}] 2.0 GiB of 8.0 GiB (25%)  normal" in lines
    assert [line.split()[0] for line in lines[-2:]] == ["demo", "demo-mini"]


def test_pressure_shows_on_the_bar_with_the_step_and_its_figures(lmx: Lmx, appliance: Appliance) -> None:
    breakers = {"hub": {"state": "open", "retry_in": 42.0, "why": "HTTP 500"}, "tools": {"state": "closed"}}
    appliance.on(
        "GET /status",
        status_document(memory=STRAINED, thermal={"level": "heavy", "hot": True}, breakers=breakers),
    )
    lines = lmx("metrics").out.splitlines()
    (bar,) = [line for line in lines if line.startswith("memory")]
    assert bar == f"memory    [{'█' * 34}|·|···] 7.0 GiB of 8.0 GiB (88%)  warning"
    assert "          warning at 6.8 GiB, critical at 7.2 GiB" in lines
    assert "step      throttle  7.0 GiB of 8.0 GiB (88 %)" in lines
    assert "heat      heavy" in lines
    assert "breaker   hub is open, tried again in 42s: HTTP 500" in lines
    assert not any("tools" in line for line in lines)


def test_watching_in_a_pipe_is_one_line_per_look(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(), status_document(memory=STRAINED))
    process = lmx.start("metrics", "--watch", "100ms")
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert first.endswith(
        " tokens_per_s=412.4 ttft_p50_ms=80.2 ttft_p95_ms=210.9 in_flight=3 queued=1"
        " memory=25.0% level=normal step=- heat=-\n"
    )
    assert "memory=87.5% level=warning step=throttle" in second


def test_watching_goes_on_while_the_appliance_is_away(lmx: Lmx, appliance: Appliance) -> None:
    gone = Reply([], 200, breaks=True)
    appliance.on("GET /status", status_document(), gone, status_document())
    process = lmx.start("metrics", "--watch", "100ms")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    process.communicate(timeout=60)
    assert " down: " in lines[1]
    assert "tokens_per_s=412.4" in lines[2]


def test_json_is_one_object_or_one_per_line(lmx: Lmx, appliance: Appliance) -> None:
    found = json.loads(lmx("metrics", "-o", "json").out)
    assert found["traffic"]["in_flight"] == 3
    assert found["models"]["demo"]["state"] == "ready"
    process = lmx.start("metrics", "--watch", "100ms", "-o", "json")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.terminate()
    process.communicate(timeout=60)
    assert looks[0].keys() == looks[1].keys() == found.keys()


@pytest.mark.parametrize(
    ("given", "said"), [("2", "write it with a unit"), ("soon", "write it with a unit"), ("1ms", "at least")]
)
def test_a_wrong_interval_is_refused_with_what_to_write(lmx: Lmx, given: str, said: str) -> None:
    result = lmx("metrics", "--watch", given)
    assert result.code == 1
    assert said in result.err


def test_before_anything_was_measured_nothing_is_made_up(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on("GET /status", status_document(memory={"used_bytes": None}, traffic={}, models={}))
    lines = lmx("metrics").out.splitlines()
    assert "memory    -" in lines
    assert "speed     0 tokens/s, first token -" in lines
