"""/admin/try and its like, as the server reads them: who asked, for how long, and what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Site

pytestmark = pytest.mark.anyio

SPEC = "version: 1\nactive: null\nmodels: {}\n"


async def test_each_reaches_the_control_with_who_and_how_long(site: Site) -> None:
    body = {"spec": SPEC, "for": "90s", "by": "ada", "file": "new.yaml"}
    assert (await site.http.post("/admin/try", json=body)).status_code == 200
    assert (await site.http.post("/admin/try", json={"spec": SPEC})).status_code == 200
    assert (await site.http.post("/admin/confirm")).status_code == 200
    assert (await site.http.delete("/admin/try")).status_code == 200
    assert (await site.http.post("/admin/rollback", json={"generation": 3, "for": 60})).status_code == 200
    assert (await site.http.post("/admin/rollback")).status_code == 200
    assert (await site.http.post("/admin/suspend", json={"by": "ada"})).status_code == 200
    assert (await site.http.delete("/admin/suspend")).status_code == 200
    assert site.board.calls == [
        ("try", (SPEC, "new.yaml", 90.0, "ada (127.0.0.1)")),
        ("try", (SPEC, "the tried file", 300.0, "127.0.0.1")),
        ("confirm", "127.0.0.1"),
        ("end_try", "127.0.0.1"),
        ("rollback", (3, 60.0, "127.0.0.1")),
        ("rollback", (None, 900.0, "127.0.0.1")),
        ("suspend", "ada (127.0.0.1)"),
        ("resume", None),
    ]


async def test_looking_changes_nothing_and_needs_no_right(site: Site) -> None:
    site.board.set(admin="off")
    assert (await site.http.get("/admin/try")).json() == {"try": None, "ended": None}
    assert (await site.http.get("/admin/rollback")).json()["generation"] == 1
    assert (await site.http.get("/admin/rollback?generation=7")).json()["generation"] == 7
    assert (await site.http.get("/admin/config?origins=true")).json() == {"version": 1, "origins": {}}
    assert site.board.calls == []


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/admin/try", {}, "spec"),
        ("POST", "/admin/try", {"spec": SPEC, "for": "soon"}, "for"),
        ("POST", "/admin/try", {"spec": SPEC, "for": "2d"}, "for"),
        ("POST", "/admin/try", {"spec": SPEC, "by": "a\x1b[31mda"}, "by"),
        ("POST", "/admin/try", {"spec": SPEC, "by": "a" * 65}, "by"),
        ("POST", "/admin/try", {"spec": SPEC, "file": "a\nb"}, "file"),
        ("POST", "/admin/try", {"spec": SPEC, "path": "/etc/passwd"}, "path"),
        ("POST", "/admin/rollback", {"generation": 0}, "generation"),
        ("POST", "/admin/rollback", {"generation": "last"}, "generation"),
        ("POST", "/admin/suspend", {"for": "5m"}, "for"),
        ("GET", "/admin/rollback?generation=x", None, "generation"),
        ("GET", "/admin/rollback?of=1", None, "of"),
        ("GET", "/admin/try?full=1", None, "full"),
        ("GET", "/admin/config?origins=yes", None, "origins"),
        ("GET", "/admin/config?origins=", None, "origins"),
        ("DELETE", "/admin/override?model=", None, "model"),  # an empty variable of a script is not "all"
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_asked_for(
    site: Site, method: str, path: str, body: Any, param: str
) -> None:
    reply = await site.http.request(method, path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert site.board.calls == []
