"""The small routes: health, status, models, admin and its events."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from appliance.server import sse
from tests.server import raw
from tests.server.conftest import Site
from tests.server.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_health_follows_the_loop(site: Site) -> None:
    assert (await site.http.get("/healthz")).json() == {"status": "ok"}
    assert (await site.http.head("/healthz")).status_code == 200
    site.board.beating = (False, "the loop has not beaten for 12 s")
    reply = await site.http.get("/healthz")
    assert reply.status_code == 503
    assert reply.json()["reason"] == "the loop has not beaten for 12 s"


async def test_readiness_names_the_model_or_the_reason(site: Site) -> None:
    assert (await site.http.get("/readyz")).json() == {"ready": True, "model": "demo"}
    site.board.readiness = (False, "no-model-loaded", "active is null")
    reply = await site.http.get("/readyz")
    assert reply.status_code == 503
    assert reply.json() == {"ready": False, "reason": "no-model-loaded", "message": "active is null"}


async def test_status_config_and_plan_are_passed_on(site: Site) -> None:
    assert (await site.http.get("/status")).json()["summary"] == "Ready"
    assert (await site.http.get("/admin/config")).json() == {"version": 1}
    assert (await site.http.get("/admin/plan")).json() == {"plan": [{"action": "load", "model": "demo"}]}
    assert (await site.http.get("/admin/models")).json() == {"models": [{"id": "demo", "loaded": True}]}


async def test_frozen_maps_and_paths_are_written_as_json(site: Site) -> None:
    frozen = {"models": MappingProxyType({"a": 1}), "path": Path("/x")}
    site.board.status = lambda: frozen  # type: ignore[method-assign]
    assert (await site.http.get("/status")).json() == {"models": {"a": 1}, "path": "/x"}


async def test_models_have_the_public_shape(site: Site) -> None:
    listing = (await site.http.get("/v1/models")).json()
    assert listing["object"] == "list"
    (model,) = listing["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("demo", "model", "lmx")
    assert isinstance(model["created"], int)
    assert model["context"] == {"effective": 512}


@pytest.mark.parametrize("name", ["demo", "small/demo", "small%2Fdemo"])
async def test_a_model_is_found_by_its_key_and_aliases(site: Site, name: str) -> None:
    assert (await site.http.get(f"/v1/models/{name}")).json()["id"] == "demo"


async def test_an_unknown_model_lists_the_known_ones(site: Site) -> None:
    reply = await site.http.get("/v1/models/gpt-9")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "demo" in reply.json()["error"]["message"]


async def test_load_and_unload_reach_the_control(site: Site) -> None:
    assert (await site.http.post("/admin/models/load", json={"model": "demo"})).json()["success"] is True
    assert (await site.http.post("/admin/models/unload", json={"model": "demo"})).status_code == 200
    assert (await site.http.post("/admin/models/unload")).status_code == 200
    assert (await site.http.post("/admin/reconcile")).status_code == 200
    assert (await site.http.delete("/admin/override?model=demo")).status_code == 200
    assert (await site.http.delete("/admin/override")).status_code == 200
    assert site.board.calls == [
        ("load", "demo"),
        ("unload", "demo"),
        ("unload", None),
        ("reconcile", None),
        ("clear_override", "demo"),
        ("clear_override", None),
    ]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/admin/models/load", {}, "model"),
        ("/admin/models/load", {"model": 7}, "model"),
        ("/admin/models/load", {"modle": "demo"}, "modle"),
        ("/admin/models/unload", {"name": "demo"}, "name"),
        ("/admin/reconcile", {"force": True}, "force"),
    ],
)
async def test_a_wrong_admin_body_changes_nothing(site: Site, path: str, body: Any, param: str) -> None:
    reply = await site.http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert site.board.calls == []


async def test_an_unknown_model_is_not_loaded(site: Site) -> None:
    reply = await site.http.post("/admin/models/load", json={"model": "gpt-9"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_request_id_is_given_back_or_made(site: Site) -> None:
    assert (await site.http.get("/status", headers={"x-request-id": "a-1"})).headers["x-request-id"] == "a-1"
    made = (await site.http.get("/status", headers={"x-request-id": 'a b"<'})).headers["x-request-id"]
    assert made.startswith("req_")
    assert (await site.http.get("/nothing")).headers["x-request-id"].startswith("req_")


async def test_events_come_with_id_type_and_data(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/admin/events", "Last-Event-ID: 41"))
        await line.until(b": events\n\n")
        site.board.feed.put_nowait({"id": 42, "type": "ModelReady", "message": "a\nb", "data": {}})
        site.board.feed.put_nowait({"type": "telemetry", "tokens_per_s": 3.5})
        got = await line.until(b"telemetry\ndata: ")
        assert b"id: 42\nevent: ModelReady\ndata: {" in got
        data = json.loads(got.split(b"data: ")[1].split(b"\n")[0])
        assert data["message"] == "a\nb"
        assert b"3.5" in await line.until(b"\n\n")
        assert site.board.after == 41
        site.board.feed.put_nowait(None)  # the control drops a follower: the stream ends in order
        await line.until(b"0\r\n\r\n")
    assert site.board.followers == 0


async def test_a_follower_that_leaves_is_let_go(site: Site) -> None:
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/admin/events?after=7"))
        await line.until(b": events\n\n")
        await eventually(lambda: site.board.followers == 1)
    await eventually(lambda: site.board.followers == 0)
    assert site.board.after == 7


async def test_a_quiet_event_stream_is_kept_alive(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.05)
    async with raw.connect(site.port) as line:
        await line.send(raw.get("/admin/events"))
        await line.until(b": keep-alive\n\n")


async def test_a_wrong_event_id_is_refused(site: Site) -> None:
    reply = await site.http.get("/admin/events", headers={"last-event-id": "x"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "Last-Event-ID")
