"""The API under random requests: a few in `make test`, tens of thousands in `make fuzz`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.machine import MINI, Machine
from tests.fuzz.campaign import Campaign, Held, MiB

# A small model with a small window: what counts is what is asked, not how long the answer is.
MODEL = {"source": str(MINI), "context": 256, "concurrency": 8, "sampling": {"max_tokens": 4}}


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("fuzz"))
    made.up(made.spec(active="mini", models={"mini": MODEL}))
    yield made
    made.close()


def complaints(machine: Machine) -> str:
    return "\n".join(line for line in machine.log.read_text().splitlines() if "Traceback" in line)


@pytest.mark.slow
def test_some_hundred_random_requests_are_answered_as_the_document_says(machine: Machine) -> None:
    campaign = Campaign(machine, "mini")
    campaign.run(120)
    assert campaign.sent >= 100
    assert not complaints(machine), machine.tail()
    assert machine.answer("ping") == "pong"


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_twenty_thousand_random_requests_leave_nothing_behind(machine: Machine) -> None:
    campaign = Campaign(machine, "mini")
    campaign.run(5_000)  # caches fill up to their bounds
    before = Held.of(machine)
    campaign.run(15_000)
    after = Held.of(machine)
    assert campaign.sent >= 20_000
    assert not complaints(machine), machine.tail()
    assert machine.answer("ping") == "pong"
    assert after.handles <= before.handles + 8, (before, after)
    assert after.rss <= before.rss + 64 * MiB, (before, after)
