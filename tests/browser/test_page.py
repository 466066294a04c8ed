"""What holds of the page whatever happens: an open hour, a keyboard, no JavaScript, less motion."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.look import LIMIT_MS, Look, Looker
from tests.browser.site import Site, site
from tests.dashboard.test_view import GIB, NOW, condition, model

MINUTE = 60


@pytest.fixture
def made() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture
def look(looker: Looker, made: Site) -> Iterator[Look]:
    with looker.at(made.home) as found:
        yield found


def busy(made: Site, number: int) -> None:
    """A second of a busy machine: figures change, events come, now and then a model goes and comes."""
    status = made.status
    status["traffic"] |= {"tokens_per_s": 50.0 + number % 37, "queued": number % 5, "in_flight": number % 9}
    status["traffic"]["ttft_p95_ms"] = 200 + number % 300
    status["memory"]["used_bytes"] = int((4 + number % 50 / 25) * GIB)
    if number % 2 == 0:
        event = {"id": 1000 + number, "type": "Action", "at": made.now, "message": f"the {number}th thing"}
        status["events"] = [event, *status["events"]][:50]
    if number % 30 == 0:
        loading = number % 60 == 0
        progress = {"done": number * 1000, "total": 10**9} if loading else None
        status["models"]["other"] = model("loading" if loading else "on_disk", progress=progress)
        status["plan"] = (
            [{"action": "load", "model": "other", "reason": "r", "field": "active", "state": "running"}]
            if loading
            else []
        )
    if number % 100 == 0:
        hot = number % 200 == 0
        kept = [one for one in status["conditions"] if one["type"] != "Degraded"]
        word = "True" if hot else "False"
        status["conditions"] = [*kept, condition("Degraded", word, f"since {number}", made.now)]


def _size(page: Page) -> dict[str, float]:
    """Bytes of the JavaScript heap after a collection, and nodes with all that is kept alive."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {
        "heap": found["JSHeapUsedSize"],
        "nodes": found["Nodes"],
        "listeners": found["JSEventListeners"],
        "shown": page.evaluate("document.querySelectorAll('*').length"),
    }


@pytest.mark.parametrize(
    ("early", "late"),
    [
        pytest.param(2, 4, id="minutes"),
        pytest.param(10, 60, id="hour", marks=[pytest.mark.heavy, pytest.mark.timeout(900)]),
    ],
)
def test_a_page_stays_as_small_as_it_was(made: Site, look: Look, early: int, late: int) -> None:
    """Minutes of a busy machine, a frame for each second. It follows to the last of them."""
    numbers = itertools.count()
    sizes = []
    for until in (early, late):
        while (passed := made.now - NOW) < until * MINUTE:
            made.seconds(min(30, until * MINUTE - int(passed)), lambda _: busy(made, next(numbers)))
        newest = made.status["events"][0]["message"]
        expect(look.page.locator("#events li").first).to_contain_text(newest, timeout=10 * LIMIT_MS)
        sizes.append(_size(look.page))
    assert next(numbers) == late * MINUTE
    first, last = sizes
    # Once all lists are full the page has one size; what is not yet collected makes it vary a little.
    assert last["heap"] <= 1.1 * first["heap"] + 200_000, sizes
    assert last["nodes"] <= 1.1 * first["nodes"], sizes
    assert last["shown"] <= 1.1 * first["shown"], sizes
    assert last["listeners"] == first["listeners"], sizes
    assert look.said == []
    asked = {url.removeprefix(made.home) for url in look.asked if not url.startswith("data:")}
    assert asked == {"", "dashboard.css", "dashboard.js", "admin/events?view=page"}


def test_it_is_whole_without_javascript(made: Site, looker: Looker) -> None:
    busy(made, 0)
    with looker.at(made.home) as scripted:
        expected = _words(scripted.page)
    with looker.at(made.home, java_script_enabled=False) as look:
        assert _words(look.page) == expected
        assert (
            "Without JavaScript this page loads itself every 10 s."
            in look.page.locator("footer").inner_text()
        )
        refresh = look.page.locator("noscript meta[http-equiv=refresh]")
        assert refresh.get_attribute("content") == "10"
        look.pictured("no-javascript")
        assert look.said == []


def _words(page: Page) -> list[str]:
    return str(page.locator("main").inner_text()).split()


def test_the_keyboard_reaches_what_scrolls_and_leads_and_shows_where_it_is(made: Site, look: Look) -> None:
    for number in range(0, 200, 2):
        busy(made, number)
    made.seconds(1)
    look.says("the 198th thing", "#events")
    look.at("laptop", "light")
    reached: list[str] = []
    for _ in range(12):
        look.page.keyboard.press("Tab")
        here = look.page.evaluate(
            """() => { const on = document.activeElement, style = getComputedStyle(on);
            return [on === document.body ? "" : on.getAttribute("href") || on.getAttribute("aria-labelledby"),
                    style.outlineStyle, parseFloat(style.outlineWidth)]; }"""
        )
        if not here[0]:
            break
        reached.append(here[0])
        assert here[1] == "solid", here
        assert here[2] >= 2, here
    assert reached == ["#models", "events-title", "status", "metrics"]
    events = look.page.locator("#events .scroll")
    events.focus()
    look.page.keyboard.press("End")
    expect(look.page.locator("#events li").last).to_be_in_viewport(timeout=LIMIT_MS)


def test_focus_and_scrolling_stay_where_they_are_while_the_page_changes(made: Site, look: Look) -> None:
    for number in range(0, 200, 2):
        busy(made, number)
    made.seconds(1)
    look.says("the 198th thing", "#events")
    look.page.locator("#events .scroll").focus()
    look.page.evaluate("document.querySelector('#events .scroll').scrollTop = 120")
    made.seconds(30, lambda number: busy(made, 300 + number))
    look.says("the 328th thing", "#events")
    held = "[document.activeElement.className, document.querySelector('#events .scroll').scrollTop]"
    assert look.page.evaluate(held) == ["scroll", 120]


def test_what_is_said_aloud_is_said_once(made: Site, look: Look) -> None:
    """Two live regions: news of what needs attention, and lost contact. No number that counts is in them."""
    look.page.evaluate(
        """() => { window.spoken = [];
        for (const part of document.querySelectorAll("[role=status], [role=alert], [aria-live]"))
          new MutationObserver(() => window.spoken.push(part.textContent)).observe(
            part, {childList: true, characterData: true, subtree: true}); }"""
    )
    made.seconds(90, lambda number: busy(made, 1 + number))
    made.status["conditions"] = [condition("Degraded", "True", "hot", made.now)]
    made.seconds(130)
    look.says("2 min ago", "#attention")
    made.status["conditions"] = [condition("Degraded", "False", "", made.now)]
    made.seconds(1)
    look.says("Nothing needs attention any more.", "#said")
    assert look.page.evaluate("window.spoken") == [
        "Attention: Less is served than should be.",
        "Nothing needs attention any more.",
    ]


def test_nothing_moves_for_those_who_want_less_motion(looker: Looker, made: Site) -> None:
    made.status["models"]["other"] = model("loading", progress={"done": 1, "total": 4})
    with looker.at(made.home, reduced_motion="reduce") as look:
        moving = look.page.evaluate(
            """[...document.querySelectorAll("*")].filter((one) => { const s = getComputedStyle(one);
            return s.animationName !== "none" || parseFloat(s.transitionDuration) > 0; }).length"""
        )
        assert moving == 0
        assert look.page.evaluate("document.getAnimations().length") == 0


def test_names_from_anybodys_file_stay_text(made: Site, look: Look) -> None:
    evil = "</section><img src=x onerror=alert(1)><script>alert(1)</script>"
    made.status["models"] = {evil: model("failed", reason=evil)}
    made.status["events"] = [{"id": 1, "type": "Action", "at": made.now, "message": evil}]
    made.status["conditions"] = [condition("Ready", "False", evil, made.now)]
    made.seconds(1)
    look.says(evil, "#events")
    look.says(evil, ".models")
    assert look.page.locator("main img, main script").count() == 0
    look.is_sound()


def test_a_page_of_another_version_loads_itself_anew(
    made: Site, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    look.page.evaluate("window.old = true")
    for name in ("appliance.dashboard.live.build", "appliance.dashboard.render.build"):
        monkeypatch.setattr(name, lambda: "another")
    made.restart()
    expect(look.page.locator("html")).to_have_attribute("data-build", "another", timeout=LIMIT_MS)
    assert look.page.evaluate("window.old === undefined")
    assert len([url for url in look.asked if url == made.home]) == 2  # and once only
