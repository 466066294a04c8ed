"""Keys of a model that shape its chats: template.file, tool_parser, thinking_budget and sampling.force."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.machine import DEMO, Machine

OWN = (DEMO / "chat_template.jinja").read_text()


def edit(machine: Machine, **keys: Any) -> None:
    spec = machine.spec()
    spec["models"]["demo"].update(keys)
    machine.write(spec)


def engine(machine: Machine) -> tuple[str, int]:
    """Which engine answers, and how many tokens the prompt of `Hello` has there."""
    status, body = machine.ask("Hello", max_tokens=1)
    assert status == 200, body
    return body["system_fingerprint"], body["usage"]["prompt_tokens"]


@pytest.mark.slow
def test_a_template_of_the_operators_own_is_used_and_its_edits_are_taken_up(machine: Machine) -> None:
    file = machine.folder / "chat.jinja"
    machine.up()
    own = engine(machine)
    edit(machine, template={"file": "./chat.jinja"})
    assert _synced(machine.until(lambda s: str(file) in _synced(s)["message"]))["status"] == "False"
    assert engine(machine) == own  # the file is not there: what ran goes on

    file.write_text(f"Be kind to all who ask, and to those who do not.\n{OWN}")
    machine.until(lambda _: engine(machine)[0] != own[0])
    first = engine(machine)
    assert first[1] > own[1]

    file.write_text("{% if messages %}")  # no endif
    look(machine)
    machine.until(lambda s: _told(s, "template"))
    assert engine(machine) == first

    file.write_text(f"Be kind.\n{OWN}")
    look(machine)
    machine.until(lambda _: engine(machine)[0] != first[0])
    assert own[1] < engine(machine)[1] < first[1]


def _told(status: dict[str, Any], word: str) -> bool:
    return any(e["type"] == "EngineFailed" and word in e["message"] for e in status["events"])


def _synced(status: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == "Synced")


def look(machine: Machine) -> None:
    """Now, not in a few seconds."""
    assert machine.call("POST", "/admin/reconcile", {})[0] == 200


def stories(machine: Machine) -> set[str]:
    """What requests get that ask for chance."""
    found = set()
    for seed in range(4):
        body = {"prompt": "The", "seed": seed, "temperature": 2, "max_tokens": 12}
        status, answer = machine.call("POST", "/v1/completions", body)
        assert status == 200, answer
        found.add(answer["choices"][0]["text"])
    return found


@pytest.mark.slow
def test_parser_budget_and_force_change_in_place(machine: Machine) -> None:
    machine.up()
    first, _ = engine(machine)
    assert len(stories(machine)) > 1
    edit(
        machine,
        tool_parser="llama3",
        thinking_budget=7,
        sampling={"temperature": 0, "max_tokens": 5, "force": True},
    )
    machine.until_synced()
    found = machine.until(lambda s: s["models"]["demo"]["chat"]["tool_parser"] == "llama3")
    assert found["models"]["demo"]["chat"]["thinking_budget"] == 7
    assert engine(machine)[0] == first
    assert len(stories(machine)) == 1
