"""/metrics of a real appliance: every name, true figures, and cheap enough to be scraped under load."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import defaultdict

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from appliance.metric_table import METRICS
from tests.e2e.machine import MINI, Machine

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


def scrape(machine: Machine, accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{machine.port}/metrics", headers={"accept": accept} if accept else {}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers["content-type"], answer.read().decode()


def samples(machine: Machine) -> Samples:
    found: Samples = defaultdict(dict)
    for family in plain(scrape(machine)[1]):
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_every_metric_of_the_reference_is_there_and_true(machine: Machine) -> None:
    machine.up()
    machine.answer("Who are you?")
    machine.ask("x", model="nope")
    assert machine.call("POST", "/v1/chat/completions", {"messages": 3})[0] == 400
    assert machine.call("GET", "/there/is/nothing")[0] == 404
    found = samples(machine)
    families = {family.name for family in plain(scrape(machine)[1])}
    named = {m.name.removesuffix("_total") if m.kind == "counter" else m.name for m in METRICS}
    assert families == named
    chat = "/v1/chat/completions"
    assert found["lmx_requests_total"] == {
        (("code", "ok"), ("route", chat)): 1,
        (("code", "model_not_found"), ("route", chat)): 1,
        (("code", "invalid_request"), ("route", chat)): 1,
        (("code", "not_found"), ("route", "other")): 1,
    }
    assert found["lmx_ttft_seconds_count"][()] == 1
    assert (
        found["lmx_inter_token_seconds_count"][()] == found["lmx_tokens_total"][(("kind", "completion"),)] - 1
    )
    assert found["lmx_model_state"][(("model", "demo"), ("state", "ready"))] == 1
    assert found["lmx_swap_duration_seconds_count"][(("stage", "load"),)] == 1
    status = machine.status()
    assert found["lmx_memory_budget_bytes"][()] == status["memory"]["budget_bytes"]
    assert found["lmx_memory_engine_bytes"][(("model", "demo"),)] > 0
    assert found["lmx_generation"][()] == status["generation"]
    assert found["lmx_breaker_state"] == {(("name", "hub"),): 0}


def test_openmetrics_is_given_where_it_is_asked_for(shared: Machine) -> None:
    kind, text = scrape(shared, "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(text)} >= {"lmx_requests", "lmx_ttft_seconds"}
    assert scrape(shared, "text/html")[0].startswith("text/plain; version=0.0.4")


def test_counters_outlive_an_engine_and_name_why_it_ended(machine: Machine) -> None:
    machine.up()
    machine.answer("Who are you?")
    before = samples(machine)
    machine.engines()[0].kill()
    machine.until(lambda s: s["summary"] == "Ready" and any(e["type"] == "EngineFailed" for e in s["events"]))
    machine.answer("Who are you?")
    after = samples(machine)
    assert after["lmx_engine_restarts_total"] == {(("model", "demo"), ("reason", "crash")): 1}
    for kind in ("prompt", "completion"):
        row = (("kind", kind),)
        assert after["lmx_tokens_total"][row] == 2 * before["lmx_tokens_total"][row]
    assert after["lmx_ttft_seconds_count"][()] == 2


def test_scrapes_under_load_see_all_requests_and_lose_none(machine: Machine) -> None:
    spec = machine.spec()
    spec["models"]["other"] = {"source": str(MINI), "residency": "loaded"}
    machine.up(spec)
    failed: list[object] = []

    def ask() -> None:
        for _ in range(5):
            status, body = machine.ask("Count to twenty.", max_tokens=40)
            if status != 200:
                failed.append(body)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    counts = []
    while any(thread.is_alive() for thread in threads):
        counts.append(
            samples(machine)["lmx_requests_total"].get(
                (("code", "ok"), ("route", "/v1/chat/completions")), 0.0
            )
        )
        time.sleep(0.01)
    assert not failed
    assert counts == sorted(counts)
    assert samples(machine)["lmx_requests_total"] == {(("code", "ok"), ("route", "/v1/chat/completions")): 20}


def test_each_request_leaves_one_line_with_the_id_that_its_answer_carries(machine: Machine) -> None:
    machine.up()
    request = urllib.request.Request(
        f"http://127.0.0.1:{machine.port}/v1/chat/completions",
        data=json.dumps(
            {"messages": [{"role": "user", "content": "my secret words"}], "max_tokens": 5}
        ).encode(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer sk-secret"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        ident = answer.headers["x-request-id"]
    machine.stop()
    text = machine.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == ident]
    assert (line["logger"], line["model"], line["engine"], line["code"], line["tokens"]) == (
        "lmx.requests",
        "demo",
        "demo-1",
        "ok",
        5,
    )
    assert line["generation"] == 1
    assert 0 < line["ttft_ms"] <= line["duration_ms"]
    assert "secret" not in text


def test_an_overload_is_counted_whole_and_logged_in_brief(machine: Machine) -> None:
    spec = machine.spec(queue={"depth": 1, "timeout": "60s"})
    spec["models"]["demo"]["concurrency"] = 1
    machine.up(spec)
    codes: list[int] = []

    def ask() -> None:
        codes.extend(machine.ask("Count to a hundred.", max_tokens=60)[0] for _ in range(15))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = codes.count(503)
    assert refused > 20
    row = (("code", "overloaded"), ("route", "/v1/chat/completions"))
    assert samples(machine)["lmx_requests_total"][row] == refused
    machine.until(lambda _: _told(machine) == refused)
    lines = [json.loads(line) for line in machine.log.read_text().splitlines()]
    assert any("count" in line for line in lines if line.get("code") == "overloaded")


def _told(machine: Machine) -> int:
    """Refusals that the log tells of, one by one or in sum."""
    lines = [
        json.loads(line) for line in machine.log.read_text().splitlines(keepends=True) if line.endswith("\n")
    ]
    return sum(line.get("count", 1) for line in lines if line.get("code") == "overloaded")
