"""What is counted, in which words, and the page that explains it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance import metric_table
from appliance.metric_table import METRICS
from appliance.server.routes import ROUTES, route_of
from appliance.supervisor.record import Caller, Ended, Refused
from appliance.tally import Histogram, Tally
from reconciler.events import Event, EventType
from reconciler.observed import CacheObs, EngineInfo, EngineObs, EngineState, Limits

ROOT = Path(__file__).resolve().parents[1]
CALLER = Caller(path="/v1/chat/completions")


def ended(**changes: Any) -> Ended:
    members: dict[str, Any] = {
        "model": "demo",
        "engine": "demo-1",
        "priority": 100,
        "asked": 10.0,
        "started": 10.1,
        "first_token": 10.5,
        "ended": 11.5,
        "tokens": 41,
        "prompt_tokens": 12,
        "cached_tokens": 0,
        "outcome": "ok",
        "rows": 1.0,
        "known": False,
        "caller": CALLER,
    }
    return Ended(**{**members, **changes})


def test_the_reference_page_is_what_the_code_says() -> None:
    page = (ROOT / metric_table.FILE).read_text(encoding="utf-8")
    assert page == metric_table.text(), "run: python -m appliance.metric_table"
    assert all(f"| `{metric.name}` |" in page for metric in METRICS)


def test_names_are_the_agreed_ones_and_follow_the_custom_of_their_kind() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("lmx_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_info") == (metric.kind == "info"), metric.name
        assert (metric.kind == "histogram") == bool(metric.bounds)
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert not {name for name, _ in metric.labels} & {"request_id", "session", "engine", "le"}


def test_a_value_counts_in_its_bucket_and_all_above() -> None:
    found = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        found.add(value)
    assert found.buckets() == [("0.1", 2), ("1.0", 3), ("+Inf", 4)]
    assert found.sum == pytest.approx(7.65)


def test_the_gaps_of_an_answer_count_one_by_one() -> None:
    tally = Tally()
    tally.ended(ended())
    assert tally.inter_token_s.buckets()[-1] == ("+Inf", 40)
    assert tally.inter_token_s.sum == pytest.approx(1.0)
    assert tally.ttft_s.sum == pytest.approx(0.5)
    tally.ended(ended(caller=Caller(path="/admin/warmup", own=True)))  # nobody's waiting time
    tally.ended(ended(tokens=1))
    tally.ended(ended(tokens=0, first_token=None, outcome="engine_failed"))
    assert tally.inter_token_s.buckets()[-1] == ("+Inf", 40)
    assert tally.ttft_s.buckets()[-1] == ("+Inf", 2)


def test_requests_count_by_route_and_outcome_and_never_by_a_path_that_a_client_made_up() -> None:
    tally = Tally()
    tally.ended(ended())
    for number in range(100):
        caller = Caller(path=f"/made/up/{number}")
        tally.refused(Refused("", "not_found", 0.0, 0.0, False, caller))
    tally.refused(Refused("", "not_found", 0.0, 0.0, False, Caller(path="/v1/models/whatever")))
    assert tally.requests == {
        ("/v1/chat/completions", "ok"): 1,
        ("other", "not_found"): 100,
        ("/v1/models", "not_found"): 1,
    }
    assert {route_of(path) for path in ROUTES} == ROUTES


def obs(state: EngineState, since: float) -> EngineObs:
    return EngineObs("demo-1", "demo", "d", state, since)


def test_the_stages_of_a_swap_are_timed_from_state_to_state() -> None:
    tally = Tally()
    tally.engines([obs(EngineState.STARTING, 100.0)])
    tally.engines([obs(EngineState.LOADING, 101.0)])
    tally.engines([obs(EngineState.PROBING, 104.0)])
    tally.engines([obs(EngineState.READY, 104.5)])
    tally.event(Event(EventType.SWAPPED, "", 0.0, data={"engine": "demo-1"}), 105.0)
    tally.engines([obs(EngineState.DRAINING, 200.0)])
    tally.engines([obs(EngineState.STOPPING, 203.0)])
    tally.engines([obs(EngineState.EXITED, 203.5)])
    tally.engines([])
    sums = {stage: found.sum for stage, found in tally.stages_s.items()}
    assert sums == {"load": 4.0, "probe": 0.5, "total": 5.0, "drain": 3.0, "stop": 0.5}


def test_an_engine_that_runs_for_days_is_no_stage() -> None:
    tally = Tally()
    tally.engines([obs(EngineState.READY, 0.0)])
    tally.engines([obs(EngineState.EXITED, 90000.0)])
    assert tally.stages_s == {}


def test_what_caches_gave_is_summed_up_over_engines_that_come_and_go() -> None:
    tally = Tally()

    def look(*caches: tuple[str, int, int, int]) -> None:
        seen = [
            EngineObs(
                name,
                "demo",
                "d",
                EngineState.READY,
                0.0,
                cache=CacheObs(memory_hits=hits, misses=misses, tokens=t),
            )
            for name, hits, misses, t in caches
        ]
        tally.engines(seen)

    look(("demo-1", 0, 1, 0))
    look(("demo-1", 3, 1, 900))
    look(("demo-1", 3, 1, 900), ("demo-2", 1, 0, 300))
    look(("demo-2", 1, 2, 300))  # the first one is gone
    look(("demo-2", 1, 2, 300), ("demo-3", 5, 0, 1000))
    assert {name: count for name, count in tally.cache.items() if count} == {
        "memory_hits": 9,
        "misses": 3,
        "tokens": 2200,
    }


def test_tool_calls_that_did_not_parse_count_by_parser_over_engines_that_come_and_go() -> None:
    tally = Tally()
    info = EngineInfo("qwen3", 1.0, 1, 1, 512, True, None, "cpu", tool_parser="json_tools")

    def look(*found: tuple[str, str, int]) -> None:
        tally.engines(
            replace(obs(EngineState.READY, 1.0), id=id, info=info, limits=Limits(512, tool_parser=chosen),
                    tool_failures=failures)
            for id, chosen, failures in found
        )  # fmt: skip

    look(("demo-1", "auto", 0))
    assert tally.tool_failures == {}
    look(("demo-1", "auto", 2))
    look(("demo-1", "auto", 2), ("demo-2", "llama3", 1))
    look(("demo-2", "llama3", 4), ("demo-3", "auto", 3))
    assert tally.tool_failures == {"json_tools": 5, "llama3": 4}


def test_events_are_counted_and_models_that_the_spec_dropped_are_forgotten() -> None:
    tally = Tally()
    for kind, data in (
        (EventType.STEP_TAKEN, {"step": "throttle"}),
        (EventType.ROLLED_BACK, {"model": "demo"}),
        (EventType.ENGINE_FAILED, {"model": "demo", "reason": "crash"}),
        (EventType.ENGINE_FAILED, {"model": "gone", "reason": "oom"}),
        (EventType.CONDITION, {}),
    ):
        tally.event(Event(kind, "", 0.0, data=data), 0.0)
    assert tally.degradations == {"throttle": 1}
    assert tally.swaps == {"rolled_back": 1}
    tally.forget(["demo"])
    assert tally.restarts == {("demo", "crash"): 1}
