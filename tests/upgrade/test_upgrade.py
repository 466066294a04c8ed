"""Another version or profile takes over: nobody is refused, no stream is cut, a failure changes nothing."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import pytest

from tests.upgrade.held import Held
from tests.upgrade.load import Load


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    made = Held(tmp_path_factory.mktemp("held"))
    made.write_profile("night")
    made.up()
    yield made
    made.close()


def test_an_upgrade_and_a_switch_and_back_under_load_lose_nothing(held: Held) -> None:
    first = held.service()
    with Load(held.port, streams=4).running() as load:
        upgrade = held.upgraded("upgrade", "--python", str(held.pythons("newer")))
        after = held.service()
        switch = held.upgraded("switch", "--to", "night", "--graceful")
        night = held.service()
        held.upgraded("switch", "--to", "base", "--graceful")
    assert load.errors == []
    assert min(load.done[kind] for kind in ("fresh", "keeping", "ws")) > 0
    assert (upgrade["result"], upgrade["from"]["version"]) == ("done", first["version"])
    assert (after["version"], after["stage"]) == ("9.9.9", "serving")
    assert after["since"] > first["since"]
    assert (switch["to"]["profile"], night["profile"]) == ("night", "night")
    assert (held.folder / "state/profiles/night/history.db").exists()
    assert held.service()["profile"] is None
    held.until_alone()


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_fifty_upgrades_and_switches_under_sixteen_streams_lose_nothing(held: Held) -> None:
    python, newer = sys.executable, str(held.pythons("newer"))
    turns = [
        ("upgrade", "--python", newer),
        ("switch", "--to", "night", "--graceful"),
        ("upgrade", "--python", python),
        ("switch", "--to", "base", "--graceful"),
    ]
    before: list[int] = []
    with Load(held.port, streams=16).running() as load:
        for number, words in zip(range(50), itertools.cycle(turns), strict=False):
            before.append(load.done.total())
            outcome = held.upgraded(*words)
            assert outcome["result"] == "done", outcome
            assert load.errors == [], f"at {number}: {words}"
            held.until_alone()
    assert load.errors == []
    assert all(later > earlier for earlier, later in itertools.pairwise(before)), "served all along"
    print(f"50 times: {dict(load.done)}, no error")
