"""Each refusal is recorded once, wherever it happens; /metrics is passed on in the form that is asked for."""

from __future__ import annotations

import pytest

from appliance.errors import ApiError
from tests.server import raw
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello!"}]}


def noted(site: Site) -> list[tuple[str, str]]:
    return [(caller.path, code) for caller, code in site.desk.noted]


async def test_what_is_refused_before_the_router_sees_it_is_noted(site: Site) -> None:
    await site.http.post(CHAT, content=b"{")
    await site.http.post(CHAT, json={"messages": 3})
    await site.http.get("/nowhere")
    await site.http.get(CHAT)
    await site.http.get("/status", headers={"host": "evil.example"})
    assert noted(site) == [
        (CHAT, "invalid_request"),
        (CHAT, "invalid_request"),
        ("/nowhere", "not_found"),
        (CHAT, "method_not_allowed"),
        ("/status", "forbidden"),
    ]


async def test_the_note_carries_the_id_that_the_answer_carries(site: Site) -> None:
    reply = await site.http.get("/nowhere")
    assert site.desk.noted[0][0].request_id == reply.headers["x-request-id"]


async def test_what_the_router_refused_is_its_own_record_and_no_second_one(site: Site) -> None:
    site.desk.full = ApiError("overloaded", "full", retry_after=1.0)
    assert (await site.http.post(CHAT, json=HELLO)).status_code == 503
    assert noted(site) == []


async def test_a_success_is_no_refusal(site: Site) -> None:
    assert (await site.http.post(CHAT, json=HELLO)).status_code == 200
    assert (await site.http.get("/status")).status_code == 200
    assert noted(site) == []


async def test_what_cannot_be_parsed_at_all_is_noted_too(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(b"NONSENSE\r\n\r\n")
        assert (await line.reply()).status == 400
    assert [code for _, code in noted(site)] == ["invalid_request"]


async def test_metrics_are_passed_on_as_the_accept_header_asks(site: Site) -> None:
    reply = await site.http.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert reply.text == "asked application/openmetrics-text"
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert (await site.http.head("/metrics")).status_code == 200
