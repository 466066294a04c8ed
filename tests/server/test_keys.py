"""API keys over HTTP: what needs one, what it may do, and what it hears when it may not."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.access.desk import Access
from appliance.access.throttle import TRIES
from appliance.supervisor.generation import Delta
from tests.server import raw
from tests.server.conftest import Site
from tests.server.stand import Answer
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio

PLAIN, ADMIN, TIGHT = "sk-plain-0123456789", "sk-admin-0123456789", "sk-tight-0123456789"
KEYS = f"""
plain: {{key: {PLAIN}}}
admin: {{key: {ADMIN}, admin: true}}
tight: {{key: {TIGHT}, requests_per_minute: 3, tokens_per_minute: 100000, streams: 1, models: [small]}}
"""
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(site: Site, tmp_path: Path) -> Site:
    file = tmp_path / "keys"
    file.write_text(KEYS)
    file.chmod(0o600)
    site.board.access = Access(tmp_path)
    site.board.set(api_keys={"file": str(file)})
    return site


def every_route(site: Site) -> list[tuple[str, str]]:
    found = []
    for route in site.listeners._app.router.routes:
        path = "/" + route.path.replace("<name:path>", "demo").replace("<id:str>", "x")
        found += [(method, path) for method in sorted(route.methods)]
    return found


async def test_nothing_but_the_probes_is_answered_without_a_key(keyed: Site) -> None:
    routes = every_route(keyed)
    assert len(routes) > 20
    for method, path in [*routes, ("GET", "/nothing/here"), ("GET", "/healthz/")]:
        for headers in ({}, bearer("sk-wrong-0123456789") if path == "/status" else {}):
            answer = await keyed.http.request(method, path, headers=headers)
            if path in ("/healthz", "/readyz"):
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == 'Bearer realm="lmx"'
            if method != "HEAD" and "messages" not in path:
                assert answer.json()["error"]["code"] == "unauthorized"
    assert keyed.board.calls == []
    assert keyed.desk.asked == []


@pytest.mark.parametrize("header", [("Authorization", f"bearer {PLAIN}"), ("x-api-key", PLAIN)])
async def test_a_key_is_shown_as_either_family_does(keyed: Site, header: tuple[str, str]) -> None:
    for path in ("/status", "/metrics", "/admin/config", "/v1/models", "/v1/models/demo"):
        assert (await keyed.http.get(path, headers=dict([header]))).status_code == 200
    answer = await keyed.http.post("/v1/chat/completions", json=HELLO, headers=dict([header]))
    assert answer.status_code == 200
    assert keyed.desk.callers[-1].key == f"hash of {PLAIN}"
    assert keyed.desk.callers[-1].name == "plain"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Authorization", f"Bearer {PLAIN} ")], 200),
        ([("Authorization", f"Basic {PLAIN}")], 401),
        ([("Authorization", PLAIN)], 401),
        ([("Authorization", f"Bearer {PLAIN}x")], 401),
        ([("Authorization", "Bearer \xe9")], 401),
        ([("Authorization", f"Bearer {PLAIN}"), ("Authorization", "Bearer x")], 400),
        ([("Cookie", f"key={PLAIN}")], 401),
        ([("Proxy-Authorization", f"Bearer {PLAIN}")], 401),
    ],
)
async def test_a_key_in_another_place_is_none(
    keyed: Site, headers: list[tuple[str, str]], status: int
) -> None:
    async with raw.connect(keyed.port) as line:
        await line.send(raw.get("/status", *(f"{name}: {value}" for name, value in headers)))
        assert (await line.reply()).status == status


def basic(key: str, user: str = "anybody") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


async def test_a_browser_is_asked_for_the_key_and_reads_with_it(keyed: Site) -> None:
    asked = await keyed.http.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic realm=")
    for path in ("/", "/dashboard.css", "/dashboard.js", "/status", "/admin/events?view=page"):
        assert (await keyed.http.get(path)).headers["www-authenticate"] == 'Bearer realm="lmx"'
        answer = await keyed.http.get(path, headers=basic(PLAIN))
        assert answer.status_code == 200, path


async def test_what_a_browser_sends_by_itself_changes_nothing_and_asks_no_model(keyed: Site) -> None:
    """Any page on the web can make a browser ask with the key that it remembers."""
    for method, path in every_route(keyed):
        if (method in ("GET", "HEAD") and path != "/v1/ws") or method == "OPTIONS":
            continue
        answer = await keyed.http.request(method, path, headers=basic(ADMIN))
        assert answer.status_code == 401, (method, path)
    async with raw.connect(keyed.port) as line:
        await line.send(raw.get("/v1/ws", f"Authorization: {basic(ADMIN)['authorization']}"))
        assert (await line.reply()).status == 401
    assert keyed.board.calls == []
    assert keyed.desk.asked == []


@pytest.mark.parametrize(
    "shown", ["", "Og==", "x", "%%%", "OnNrLXdyb25nLTAxMjM0NTY3ODk=", "/w==", "OsOpw6k="]
)
async def test_a_password_that_is_no_key_lets_nobody_in(keyed: Site, shown: str) -> None:
    async with raw.connect(keyed.port) as line:
        await line.send(raw.get("/status", f"Authorization: Basic {shown}"))
        assert (await line.reply()).status == 401


async def test_a_key_in_the_address_is_none(keyed: Site) -> None:
    for name in ("key", "api_key", "access_token"):
        assert (await keyed.http.get("/status", params={name: PLAIN})).status_code == 401


async def test_an_upload_without_a_key_is_refused_before_it_is_read(keyed: Site) -> None:
    for path in ("/v1/chat/completions", "/status", "/admin/drain"):
        async with raw.connect(keyed.port) as line:
            head = raw.post(path, b"", "Content-Length: 30000000")
            await line.send(head.replace(b"POST /status", b"GET /status"))
            assert (await line.reply()).status in (401, 413)


async def test_the_operator_changes_things_with_a_key_that_may(keyed: Site) -> None:
    keyed.board.set(api_keys=keyed.board.spec().server.api_keys.model_dump(), admin="key")  # type: ignore[union-attr]
    refused = await keyed.http.post("/admin/reconcile", headers=bearer(PLAIN))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert "admin: true" in refused.json()["error"]["message"]
    forwarded = {**bearer(ADMIN), "x-forwarded-for": "192.0.2.1"}
    assert (await keyed.http.post("/admin/reconcile", headers=forwarded)).status_code == 200
    assert (await keyed.http.get("/admin/sessions", headers=bearer(PLAIN))).status_code == 403
    assert len(keyed.board.calls) == 1


async def test_with_admin_loopback_a_key_is_needed_too(keyed: Site) -> None:
    assert (await keyed.http.post("/admin/reconcile")).status_code == 401
    assert (await keyed.http.post("/admin/reconcile", headers=bearer(PLAIN))).status_code == 200


async def test_models_are_listed_for_the_key_that_may_use_them(keyed: Site) -> None:
    assert len((await keyed.http.get("/v1/models", headers=bearer(PLAIN))).json()["data"]) == 1
    assert (await keyed.http.get("/v1/models", headers=bearer(TIGHT))).json()["data"] == []
    assert (await keyed.http.get("/v1/models/demo", headers=bearer(TIGHT))).status_code == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/chat/completions/", "/v1/chat%2Fcompletions"])
async def test_requests_per_minute_count_on_every_spelling_of_a_path(keyed: Site, path: str) -> None:
    statuses = []
    for _ in range(5):
        answer = await keyed.http.post(path, json=HELLO, headers=bearer(TIGHT))
        statuses.append(answer.status_code)
    if 404 in statuses:
        assert set(statuses) == {404}
        assert keyed.desk.asked == []
        return
    assert statuses == [200, 200, 200, 429, 429]
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
    assert "3 requests per minute" in error["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 20
    assert answer.headers["x-ratelimit-limit-requests"] == "3"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
    assert (await keyed.http.get("/v1/models", headers=bearer(TIGHT))).status_code == 200


async def test_a_request_at_once_is_given_back_however_it_ends(keyed: Site) -> None:
    """Answered whole, streamed, refused for its body, left by its client."""
    keyed.board.access.look(keyed.board.spec().server.api_keys)
    allowance = keyed.board.access._allowances["tight"]
    allowance.requests = None
    headers = bearer(TIGHT)
    assert (await keyed.http.post("/v1/chat/completions", json=HELLO, headers=headers)).status_code == 200
    stream = await keyed.http.post("/v1/chat/completions", json={**HELLO, "stream": True}, headers=headers)
    assert stream.text.endswith("[DONE]\n\n")
    assert (await keyed.http.post("/v1/chat/completions", json={}, headers=headers)).status_code == 400
    waiting = Answer([Delta("a", 1)])
    keyed.desk.answer = lambda _: waiting
    body = json.dumps({**HELLO, "stream": True}).encode()
    async with raw.connect(keyed.port) as line:
        await line.send(raw.post("/v1/chat/completions", body, f"x-api-key: {TIGHT}"))
        await line.until(b'"a"')
        assert allowance.running == 1
        second = await keyed.http.post("/v1/chat/completions", json=HELLO, headers=headers)
        assert second.status_code == 429
        assert "1 requests run at once" in second.json()["error"]["message"]
        line.cut()
    await eventually(lambda: allowance.running == 0)
    keyed.desk.answer = lambda _: Answer([Delta("a", 1, "stop")])
    assert (await keyed.http.post("/v1/chat/completions", json=HELLO, headers=headers)).status_code == 200
    assert allowance.running == 0


async def test_wrong_keys_are_slowed_down(keyed: Site) -> None:
    assert (await keyed.http.get("/status", headers=bearer(PLAIN))).status_code == 200
    answers = [
        (await keyed.http.get("/status", headers=bearer(f"sk-guess-{i:010}"))) for i in range(TRIES + 2)
    ]
    assert [answer.status_code for answer in answers] == [401] * TRIES + [429] * 2
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert (await keyed.http.get("/status", headers=bearer(PLAIN))).status_code == 200


async def test_a_listed_page_asks_before_it_shows_its_key(keyed: Site) -> None:
    keyed.board.set(
        api_keys=keyed.board.spec().server.api_keys.model_dump(),  # type: ignore[union-attr]
        cors=["https://chat.example"],
    )
    origin = {"origin": "https://chat.example"}
    wanted = "authorization,content-type,x-stainless-os,anthropic-version"
    asks = {**origin, "access-control-request-method": "POST", "access-control-request-headers": wanted}
    answer = await keyed.http.options("/v1/messages", headers=asks)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "access-control-allow-private-network" not in answer.headers
    asks["access-control-request-private-network"] = "true"
    answer = await keyed.http.options("/v1/messages", headers=asks)
    assert answer.headers["access-control-allow-private-network"] == "true"
    asks["access-control-request-headers"] = "bad\u007fname"
    assert "\u007f" not in str((await keyed.http.options("/v1/messages", headers=asks)).headers)
    refused = await keyed.http.get("/v1/models", headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    served = await keyed.http.get("/v1/models", headers={**origin, **bearer(PLAIN)})
    assert "retry-after" in served.headers["access-control-expose-headers"]
    assert "x-request-id" in served.headers["access-control-expose-headers"]
    assert served.headers["vary"] == "origin"
    assert (await keyed.http.get("/healthz")).headers["vary"] == "origin"  # a cache must not mix them up


async def test_no_page_is_told_anything_unless_it_is_listed(site: Site) -> None:
    answer = await site.http.get("/status")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_target_may_not_name_another_host_than_the_header(site: Site) -> None:
    async def ask(target: str) -> int:
        async with raw.connect(site.port) as line:
            await line.send(f"GET {target} HTTP/1.1\r\nHost: localhost:1\r\n\r\n".encode())
            return (await line.reply()).status

    assert await ask("http://localhost:1/healthz") == 200
    assert await ask("http://evil.example/healthz") == 400
    assert await ask("http://localhost:1@evil.example/healthz") == 400
    assert await ask("http://localhost/healthz") == 400
    assert await ask("localhost:1/healthz") in (400, 404)


async def test_two_origins_are_refused(site: Site) -> None:
    site.board.set(cors=["https://chat.example"])
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/v1/models", "Origin: https://chat.example", "Origin: https://evil.example"))
        assert (await line.reply()).status == 403


async def test_an_upgrade_to_something_else_is_a_plain_request(site: Site) -> None:
    for upgrade in ("h2c", "websocket"):
        async with raw.connect(site.port) as line:
            await line.send(raw.get("/healthz", "Connection: Upgrade", f"Upgrade: {upgrade}"))
            assert (await line.reply()).status == 200


async def test_a_body_that_nobody_asked_for_is_not_kept(site: Site) -> None:
    """Sanic would read it all before anybody has looked at who calls."""
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/status", "Content-Length: 70000") + b"x" * 70_000)
        answer = await line.reply()
        assert (answer.status, answer.code) == (413, "request_too_large")
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/status", "Content-Length: 1000") + b"x" * 1000)
        assert (await line.reply()).status == 200


async def test_fifty_keys_at_once_get_their_own_answers(keyed: Site, tmp_path: Path) -> None:
    file = tmp_path / "many"
    file.write_text("\n".join(f"k{i}: {{key: sk-many-{i:016}}}" for i in range(50)))
    file.chmod(0o600)
    keyed.board.set(api_keys={"file": str(file)})
    answers = await asyncio.gather(
        *(
            keyed.http.post("/v1/chat/completions", json=HELLO, headers=bearer(f"sk-many-{i:016}"))
            for i in range(50)
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    assert {caller.name for caller in keyed.desk.callers} == {f"k{i}" for i in range(50)}
