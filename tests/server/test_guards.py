"""Who may call: Host, Origin, and who may change things."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.server import raw
from tests.server.conftest import Site

pytestmark = pytest.mark.anyio


async def ask(site: Site, data: bytes) -> raw.Reply:
    async with raw.connect(site.port) as line:
        await line.send(data)
        return await line.reply()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1234",
        "LOCALHOST.",
        "127.0.0.1:80",
        "127.1.2.3",
        "[::1]:1234",
        socket.gethostname(),
        f"{socket.gethostname().split('.')[0]}.local:1234",
    ],
)
async def test_every_name_of_this_machine_is_answered(site: Site, host: str) -> None:
    assert (await ask(site, raw.get("/healthz", host=host))).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "192.0.2.7", "[2001:db8::1]:1234"]
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nothing/here"])
async def test_a_name_that_is_not_this_machines_is_refused_on_every_path(
    site: Site, host: str, path: str
) -> None:
    reply = await ask(site, raw.get(path, host=host))
    assert (reply.status, reply.code) == (403, "forbidden")
    assert "server.allowed_hosts" in reply.json()["error"]["message"]


@pytest.mark.parametrize("host", ["", "a b", "host:port", "user@localhost", "localhost/x", "[::1", "*"])
async def test_a_host_that_is_no_host_is_a_bad_request(site: Site, host: str) -> None:
    reply = await ask(site, raw.get("/healthz", host=host))
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_a_host_is_needed_exactly_once(site: Site) -> None:
    assert (await ask(site, raw.get("/healthz", host=None))).status == 400
    assert (await ask(site, raw.get("/healthz", "Host: evil.example"))).status == 400
    assert (await ask(site, raw.get("/healthz", host=None, version="1.0"))).status == 200


async def test_listed_names_count_at_once_and_instead_of_the_automatic_ones(site: Site) -> None:
    site.board.set(allowed_hosts=["studio.example"])
    assert (await ask(site, raw.get("/healthz", host="Studio.Example:1234"))).status == 200
    assert (await ask(site, raw.get("/healthz", host="127.0.0.1"))).status == 200
    assert (await ask(site, raw.get("/healthz", host="other.local"))).status == 403


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:9", "file://", "app://x", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_page_from_elsewhere_is_refused(site: Site, origin: str, method: str) -> None:
    reply = await site.http.request(method, "/v1/models", headers={"origin": origin})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in reply.headers


async def test_a_page_of_this_server_is_served(site: Site) -> None:
    assert (await site.http.get("/status", headers={"origin": site.url})).status_code == 200


async def test_a_listed_origin_may_call_and_is_told_so(site: Site) -> None:
    site.board.set(cors=["https://chat.example"])
    headers = {"origin": "https://chat.example"}
    reply = await site.http.get("/v1/models", headers=headers)
    assert reply.headers["access-control-allow-origin"] == "https://chat.example"
    preflight = await site.http.options(
        "/v1/chat/completions", headers={**headers, "access-control-request-method": "POST"}
    )
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["access-control-allow-methods"]
    error = await site.http.get("/nothing", headers=headers)
    assert error.headers["access-control-allow-origin"] == "https://chat.example"


async def test_a_cross_site_call_without_origin_is_refused(site: Site) -> None:
    reply = await site.http.post("/admin/reconcile", headers={"sec-fetch-site": "cross-site"})
    assert reply.status_code == 403
    assert site.board.calls == []


CHANGING = [
    ("POST", "/admin/models/load", {"model": "demo"}),
    ("POST", "/admin/models/unload", {}),
    ("POST", "/admin/reconcile", {}),
    ("POST", "/admin/drain", {}),
    ("DELETE", "/admin/drain", None),
    ("POST", "/admin/warmup", {}),
    ("DELETE", "/admin/override", None),
    ("POST", "/admin/try", {"spec": "version: 1"}),
    ("DELETE", "/admin/try", None),
    ("POST", "/admin/confirm", {}),
    ("POST", "/admin/rollback", {}),
    ("POST", "/admin/suspend", {}),
    ("DELETE", "/admin/suspend", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGING)
async def test_this_machine_may_change_things(site: Site, method: str, path: str, body: Any) -> None:
    assert (await site.http.request(method, path, json=body)).status_code == 200
    assert len(site.board.calls) == 1


@pytest.mark.parametrize(("method", "path", "body"), CHANGING)
async def test_with_admin_off_nobody_may(site: Site, method: str, path: str, body: Any) -> None:
    site.board.set(admin="off")
    reply = await site.http.request(method, path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
    assert "server.admin" in reply.json()["error"]["message"]
    assert site.board.calls == []


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
async def test_a_proxy_on_this_machine_lends_nobody_its_rights(site: Site, header: str) -> None:
    reply = await site.http.post("/admin/reconcile", headers={header: "127.0.0.1"})
    assert reply.status_code == 403
    assert site.board.calls == []


async def test_another_machine_may_read_but_not_change(site: Site) -> None:
    """Over this machine's own outer address, where it has one, the peer is not loopback."""
    outer = outer_address()
    if outer is None:
        pytest.skip("this machine has no address but loopback")
    port = await site.listeners.open("0.0.0.0", 0)
    url = f"http://{outer}:{port}"
    assert (await site.http.get(f"{url}/admin/models")).status_code == 200
    reply = await site.http.post(f"{url}/admin/reconcile", headers={"x-forwarded-for": "127.0.0.1"})
    assert reply.status_code == 403
    assert "from this machine only" in reply.json()["error"]["message"]
    assert site.board.calls == []


def outer_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; asks which address would be used
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith(("127.", "0.")) else address
