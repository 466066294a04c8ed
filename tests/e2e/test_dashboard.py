"""The page at `/` of a real appliance: whole without JavaScript, made once a second, and true."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from email.message import Message

from tests.e2e.machine import LIMIT_S, LOOK_S, Machine


def get(machine: Machine, path: str, **headers: str) -> tuple[int, Message, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{machine.port}{path}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def until_says(machine: Machine, text: str) -> str:
    """The page, once it says so."""
    end = time.monotonic() + LIMIT_S
    while text not in (page := get(machine, "/")[2]):
        assert time.monotonic() < end, page
        time.sleep(LOOK_S)
    return page


def test_the_page_follows_what_happens(machine: Machine) -> None:
    machine.up()
    page = until_says(machine, '<p class="summary ready">Ready</p>')
    assert 'class="attention' not in page
    assert '<th role="rowheader" scope="row">demo <span class="tag">active</span></th>' in page

    machine.write(machine.spec(active="mini"))
    page = until_says(machine, '<th role="rowheader" scope="row">mini <span class="tag">active</span></th>')
    page = until_says(machine, "generation 2 runs")

    machine.write(machine.file.read_text(encoding="utf-8").replace("concurrency", "concurency", 1))
    page = until_says(machine, "The newest file is refused; the one before is served")
    assert "did you mean" in page
    assert '<span class="removed">-    concurrency: 16</span>' in page
    assert '<span class="added">+    concurency: 16</span>' in page
    assert machine.answer("Who are you?", model="mini")

    machine.write(machine.spec(active="mini"))
    until_says(machine, "LMX uses ")
    end = time.monotonic() + LIMIT_S
    while "refused" in (page := get(machine, "/")[2]):
        assert time.monotonic() < end, page
        time.sleep(LOOK_S)


def test_nothing_comes_from_elsewhere_and_an_unchanged_page_is_not_sent_again(shared: Machine) -> None:
    status, headers, page = get(shared, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in page.replace("http-equiv", "")
    assert get(shared, "/dashboard.css")[1]["content-type"] == "text/css; charset=utf-8"
    assert get(shared, "/dashboard.js")[1]["content-type"] == "text/javascript; charset=utf-8"
    # It is made anew each second: one of these falls within the second of the one before it.
    seen = [get(shared, "/", if_none_match=get(shared, "/")[1]["etag"]) for _ in range(5)]
    assert (304, "") in [(status, body) for status, _, body in seen]
    assert get(shared, "/dashboard.map")[0] == 404
