"""What /status says of a strained machine: figures, step, cause, and every limit with its why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance import status as documents
from appliance.access.desk import Access
from appliance.breakers import Breakers
from appliance.metrics import Metrics
from appliance.server.replies import encode
from appliance.status import Traffic
from appliance.supervisor.books import Books
from appliance.tally import Tally
from tests.reconciler.loop.rig import Rig, small, spec
from tests.reconciler.loop.test_pressure import grow, one


def status(rig: Rig) -> dict[str, Any]:
    """As a client reads it."""
    breakers = Breakers(lambda _: None)
    breakers.get("hub")
    found = documents.document(rig.loop, "lmx.yaml", 0.0, Traffic(), [], [], breakers)
    return dict(json.loads(encode(found)))


class QuietRouter:
    books = Books()
    in_flight = queued = tokens_out = 0


def exposed(rig: Rig) -> list[str]:
    metrics = Metrics(
        lambda: rig.loop, QuietRouter(), Breakers(lambda _: None), Tally(), Access(Path("/nowhere"), {})
    )  # type: ignore[arg-type]
    return metrics.exposition("")[0].decode().splitlines()


def test_a_machine_at_ease_says_so() -> None:
    found = status(one())
    memory = found["memory"]
    assert (memory["level"], memory["step"], memory["cause"], memory["why"]) == ("normal", None, "", "")
    assert 0 < memory["warning_bytes"] < memory["critical_bytes"] < memory["budget_bytes"]
    assert found["thermal"] == {"level": None, "hot": False, "why": ""}
    assert found["models"]["a"]["slo"] is None
    assert found["models"]["a"]["chat"] == {
        "thinks": False, "thinking_budget": None, "tool_parser": None, "tool_failures": 0,
    }  # fmt: skip
    assert found["breakers"]["hub"]["state"] == "closed"


def test_pressure_shows_its_level_step_cause_and_figures() -> None:
    rig = one(memory={"ladder": ["lower_concurrency"]})
    grow(rig, 0.87)
    rig.run(2)
    found = status(rig)
    memory = found["memory"]
    assert (memory["level"], memory["step"], memory["cause"]) == ("warning", "lower_concurrency", "ours")
    assert "87" in memory["why"]
    assert memory["used_bytes"] >= memory["warning_bytes"]
    rows = found["models"]["a"]["concurrency"]
    assert rows == {"declared": 8, "effective": 4, "why": "memory: 4 of 8 rows"}
    lines = exposed(rig)
    assert "lmx_memory_step 1.0" in lines
    (budget,) = [line.split()[1] for line in lines if line.startswith("lmx_memory_budget_bytes ")]
    assert float(budget) == memory["budget_bytes"]


def test_heat_shows_with_the_ceiling_that_it_lowers() -> None:
    rig = Rig({**spec("a", a=small()), "context": {"safe_mode": 2048}}, room=3.0)
    rig.run(20)
    rig.world.heat = "heavy"
    rig.run(2)
    found = status(rig)
    why = "thermal: max_context_tokens=2048"
    assert found["thermal"] == {"level": "heavy", "hot": True, "why": why}
    context = found["models"]["a"]["context"]
    assert (context["effective"], context["why"]) == (2048, why)


def test_before_the_first_pass_nothing_is_made_up() -> None:
    rig = Rig(spec("a", a=small()), room=3.0)
    found = status(rig)
    assert set(found["memory"].values()) == {None}
    assert found["models"] == {}
    lines = exposed(rig)
    assert not any(line.startswith("lmx_memory_used_bytes ") for line in lines)
    assert "lmx_memory_step 0.0" in lines
