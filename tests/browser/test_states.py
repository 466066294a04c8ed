"""The page in a browser while things happen to a real appliance. Nobody loads it again meanwhile."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.look import Look, Looker
from tests.chaos.appliance import Appliance, appliance
from tests.e2e.machine import MINI
from tests.hub.hubserver import Hub

REPO = "lmx/fetched"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    made = Hub.start()
    made.add(REPO, {f.name: f.read_bytes() for f in MINI.iterdir()})
    yield made
    made.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Iterator[Appliance]:
    """One for all of them; each test leaves it as it was."""
    folder: Path = tmp_path_factory.mktemp("looked-at")
    with appliance(folder) as made:
        made.env = hub.environment(folder / "hub")
        made.lay("slo", slo={"ttft_p95": None})  # late answers are no news on a busy machine
        made.lay("mini", active="mini")  # the quick one
        made.up()
        yield made


@pytest.fixture
def look(looker: Looker, machine: Appliance) -> Iterator[Look]:
    with looker.at(f"http://127.0.0.1:{machine.port}/") as made:
        made.says("Ready", ".summary")
        yield made


def test_all_is_well(machine: Appliance, look: Look) -> None:
    assert machine.answer("Who are you?", max_tokens=8)
    look.says("Nothing to do.", "#plan")
    assert look.page.locator("#attention").count() == 0
    assert look.page.title().endswith(": Ready")
    expected = ["Desired and actual", "Conditions", "Plan", "Memory", "The last 15 minutes"]
    expected += ["Models", "Generations", "Events"]
    assert look.page.locator("h2").all_inner_texts() == [name.upper() for name in expected]
    look.pictured("ready")
    look.is_sound()


def test_a_swap(machine: Appliance, look: Look) -> None:
    machine.control("engine.json", {"model": "demo", "hang": "load"})
    try:
        machine.lay("swap", active="demo")
        look.says("load demo", "#plan")
        look.says("Reconciling", ".summary")
        look.says(re.compile(r"Model\s*demo\s*mini"), "#state")  # desired, actual
        look.says("loading", ".models")
        assert look.page.locator("#attention").count() == 0  # ordinary work is nothing to look at
        look.pictured("swap")
        look.is_sound()
    finally:
        machine.control("engine.json", None)
        machine.lift("swap")
    look.says("Nothing to do.", "#plan")
    look.says("Ready", ".summary")


def test_a_rejected_edit(machine: Appliance, look: Look) -> None:
    good = machine.file.read_text(encoding="utf-8")
    try:
        machine.write(good.replace("concurrency", "concurency", 1))
        look.says("The newest file is refused; the one before is served", "#attention")
        look.says("did you mean", "#attention")
        look.says(re.compile(r"-\s+concurrency: 8\n\+\s+concurency: 8"), "#diff")
        look.says(re.compile(r"!\s*ConfigAccepted\s*False"), "#conditions")
        look.says("Attention: The newest file is refused", "#said")
        look.pictured("rejected")
        look.is_sound()
    finally:
        machine.write(good)
    look.page.locator("#diff").wait_for(state="detached")
    look.page.locator("#attention").wait_for(state="detached")
    look.says("Nothing needs attention any more.", "#said")


def test_a_download(machine: Appliance, hub: Hub, look: Look) -> None:
    hub.gate = threading.Event()  # bodies stop half-way
    try:
        machine.lay("download", active="fetched", models={"fetched": {"source": REPO}})
        look.says(re.compile(r"[1-9][\d.]* \w+ of \d.*, [1-9]\d* %"), "#plan .told")
        look.says(re.compile(r"downloading.* of .* %"), ".models")
        bar = look.page.locator("#plan progress")
        assert 0 < float(bar.get_attribute("value") or 0) < float(bar.get_attribute("max") or 0)
        look.pictured("download")
        look.is_sound()
        hub.gate.set()
        look.says(re.compile(r"Model\s*fetched\s*fetched"), "#state")
    finally:
        hub.gate.set()
        machine.lift("download")
    look.says(re.compile(r"Model\s*mini\s*mini"), "#state")


def test_memory_pressure(machine: Appliance, look: Look) -> None:
    machine.control("pressure", "critical")
    try:
        look.says("Memory is short", "#attention")
        look.says("caused by other programs", "#memory")
        look.says(re.compile(r"Step in force\s*(?!none)\S"), "#memory")
        look.says("StepTaken", "#events")
        look.pictured("pressure")
        look.is_sound()
    finally:
        machine.control("pressure", None)
    look.says(re.compile(r"Step in force\s*none"), "#memory")
    look.page.locator("#attention").wait_for(state="detached")


def test_an_outage_is_said_with_its_time_and_ends_by_itself(machine: Appliance, look: Look) -> None:
    before = look.page.locator("main").inner_text()
    assert machine.process is not None
    engines = machine.engines()
    machine.kill()
    look.says(re.compile(r"No contact since .*\d+:\d\d.*\. What you see is from then\."), "#contact")
    assert look.page.title().startswith("No contact: ")
    assert "lost" in (look.page.locator("html").get_attribute("class") or "")
    assert _lines(look.page.locator("main").inner_text()) == _lines(before)  # it is all still there
    look.pictured("outage")
    look.is_sound(out_of_contact=True)
    for engine in engines:
        engine.wait(30)
    machine.up()
    look.says_not("No contact", "#contact")
    look.says("Ready", ".summary")
    assert "lost" not in (look.page.locator("html").get_attribute("class") or "")
    assert not look.page.title().startswith("No contact")


def _lines(text: str) -> list[str]:
    """Without the times, which count on, and figures, which may have changed in the last moment."""
    return re.findall(r"[A-Za-z]{4,}", re.sub(r"\b(now|\d+ (s|min|h) ago)\b", "", text))
