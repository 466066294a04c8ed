"""Who asks, and under which name a conversation is kept."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.supervisor.record import Caller
from reconciler.spec import Cache
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


async def caller(site: Site, headers: dict[str, str] | None = None, **body: Any) -> Caller:
    answer = await site.http.post("/v1/chat/completions", json={**HELLO, **body}, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return site.desk.callers[-1]


async def test_the_header_names_the_session_before_the_body_does(site: Site) -> None:
    both = await caller(site, {"X-LMX-Session": "talk-1"}, prompt_cache_key="talk-2", user="ann")
    assert (both.conversation, both.session) == ("talk-1", "talk-1")
    body = await caller(site, prompt_cache_key="talk-2", user="ann")
    assert (body.conversation, body.session) == ("talk-2", "talk-2")
    text = await site.http.post("/v1/completions", json={"prompt": "hi", "prompt_cache_key": "talk-3"})
    assert text.status_code == 200
    assert site.desk.callers[-1].conversation == "talk-3"


async def test_a_user_is_no_conversation_and_still_one_client(site: Site) -> None:
    found = await caller(site, user="ann")
    assert (found.conversation, found.session) == (None, "ann")
    assert (await caller(site)).conversation is None
    assert (await caller(site, {"X-LMX-Session": ""}, prompt_cache_key="")).conversation is None


@pytest.mark.parametrize("where", ["X-LMX-Session", "prompt_cache_key"])
@pytest.mark.parametrize(
    ("name", "why"), [("x" * 257, "at most 256 characters, found 257"), ("a\tb", "printable characters only")]
)
async def test_a_name_that_cannot_be_one_is_refused(site: Site, where: str, name: str, why: str) -> None:
    headers = {where: name} if where == "X-LMX-Session" else {}
    body = {**HELLO, **({} if headers else {where: name})}
    answer = await site.http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", where)
    assert why in error["message"]
    assert site.desk.asked == []


async def test_a_name_of_256_characters_of_any_language_is_fine(site: Site) -> None:
    name = "Gespräch über Äpfel — 会話 " + "x" * 231
    assert len(name) == 256
    assert (await caller(site, prompt_cache_key=name)).conversation == name


async def test_two_session_headers_are_refused(site: Site) -> None:
    answer = await site.http.post(
        "/v1/chat/completions", json=HELLO, headers=[("X-LMX-Session", "a"), ("X-LMX-Session", "b")]
    )
    assert answer.status_code == 400
    assert "one X-LMX-Session header" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer sk-1"}, "hash of sk-1"),
        ({"authorization": "bearer   sk-1"}, "hash of sk-1"),
        ({"x-api-key": "sk-2"}, "hash of sk-2"),
        ({"Authorization": "Bearer sk-1", "x-api-key": "sk-2"}, "hash of sk-1"),
        ({"Authorization": "Basic c2s="}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({}, ""),
    ],
)
async def test_a_caller_is_a_hash_of_the_key_it_shows(site: Site, headers: dict[str, str], key: str) -> None:
    found = await caller(site, headers)
    assert (found.key, found.scope) == (key, "")
    site.board.now = site.board.now.model_copy(update={"cache": Cache(share="key")})
    found = await caller(site, headers)
    assert (found.key, found.scope) == (key, key)


async def test_the_record_tells_that_a_line_was_left_out(site: Site) -> None:
    system = {"role": "system", "content": "x-anthropic-billing-header: 1\nBe brief."}
    found = await caller(site, messages=[system, *HELLO["messages"]])
    assert found.left_out
    assert site.desk.asked[-1][1].messages == [{"role": "system", "content": "Be brief."}, *HELLO["messages"]]
    assert not (await caller(site)).left_out


async def test_sessions_are_listed_and_dropped_by_the_operator_alone(site: Site) -> None:
    assert (await site.http.get("/admin/sessions")).json() == {
        "sessions": [{"name": "talk", "model": "demo"}]
    }
    one = await site.http.delete("/admin/sessions", params={"name": "my talk/1", "model": "demo"})
    assert one.json() == {"success": True, "dropped": [{"name": "my talk/1", "model": "demo"}]}
    await site.http.delete("/admin/sessions")
    assert site.board.calls == [("drop_sessions", ("my talk/1", "demo")), ("drop_sessions", (None, None))]
    for path in ("?nmae=x", "?name=a&name=b", "?name=", "?name=a&model=", "?nmae="):
        assert (await site.http.delete(f"/admin/sessions{path}")).status_code == 400
    site.board.set(admin="off")
    for method in ("GET", "DELETE"):
        assert (await site.http.request(method, "/admin/sessions")).status_code == 403
    assert len(site.board.calls) == 2
