"""What counts as a right answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.benching import cells
from appliance.benching.judging import judge


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"content": words, "finish_reason": "stop", **more}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": json.dumps(arguments)}}


RIGHT = [
    ({"says": ["paris"]}, "It is Paris."),
    ({"says": [["4", "four"]]}, "Four."),
    ({"without": ["blue"]}, "The sea is wide."),
    ({"exactly": "Rome"}, " rome.\n"),
    ({"matches": "7\\.?"}, "7."),
    ({"words": {"least": 2, "most": 3}}, "one two three"),
    ({"lines": 2}, "a\n\nb"),
    ({"case": "lower"}, "all small"),
    (
        {"json": {"a": 1, "b": ["x"], "c": "$string", "d": True}},
        '{"a": 1.0, "b": ["X"], "c": "y", "d": true}',
    ),
    ({"json": {"a": 1}}, 'Here it is:\n```json\n{"a": 1}\n```\n'),
    ({"calls": []}, "I need no tool."),
]
WRONG = [
    ({"says": ["paris"]}, "It is Rome."),
    ({"says": [["4", "four"]]}, "Five."),
    ({"without": ["blue"]}, "The Blue sea."),
    ({"exactly": "Rome"}, "It is Rome"),
    ({"matches": "7\\.?"}, "It has 7"),
    ({"words": {"least": 2, "most": 3}}, "one two three four"),
    ({"lines": 2}, "a b"),
    ({"case": "lower"}, "Not small"),
    ({"case": "upper"}, ""),
    ({"json": {"a": 1}}, '{"a": true}'),
    ({"json": {"a": 1}}, '{"a": 1, "b": 2}'),
    ({"json": {"a": "$integer"}}, '{"a": 1.5}'),
    ({"json": {"a": 1}}, "a is 1"),
    ({"calls": []}, ""),
    ({"calls": [{"name": "get", "arguments": {}}]}, "I would call get"),
]


@pytest.mark.parametrize(("expect", "said"), RIGHT)
def test_right(expect: dict[str, Any], said: str) -> None:
    assert judge(expect, text(said)).passed


@pytest.mark.parametrize(("expect", "said"), WRONG)
def test_wrong_says_why(expect: dict[str, Any], said: str) -> None:
    verdict = judge(expect, text(said))
    assert not verdict.passed
    assert verdict.why


def test_calls_come_in_any_order_but_none_is_missing_changed_or_too_many() -> None:
    wanted = {
        "calls": [
            {"name": "get", "arguments": {"city": "Paris"}},
            {"name": "get", "arguments": {"city": "Rome"}},
        ]
    }
    paris, rome = call("get", city="paris"), call("get", city="Rome")
    assert judge(wanted, text("", tool_calls=[rome, paris])).passed
    for calls in ([paris], [paris, paris], [paris, rome, rome], [paris, call("put", city="Rome")], []):
        assert not judge(wanted, text("", tool_calls=calls)).passed
    assert (
        "no JSON" in judge(wanted, text("", tool_calls=[{"function": {"name": "get", "arguments": "{"}}])).why
    )
    assert "where none was needed" in judge({"calls": []}, text("ok", tool_calls=[paris])).why


def test_a_call_where_text_was_asked_for_and_a_cut_answer_are_told() -> None:
    assert judge({"says": ["x"]}, text("x", tool_calls=[call("get")])).why == "it called get"
    assert "cut" in judge({"says": ["x"]}, text("y", finish_reason="length")).why


def test_the_cells_are_read_and_each_expects_something() -> None:
    found = cells.read()
    assert {cell.area for cell in found} == set(cells.AREAS)
    assert len(found) >= 45
    for cell in found:
        assert cell.expect
        assert not judge(cell.expect, text("")).passed, f"{cell.name}: silence would pass"


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("{id: a, ask: x, expect: {sayz: [y]}}", "no check is called sayz"),
        ("{id: a, ask: x}", "expects nothing"),
        ("{id: a, expect: {says: [y]}}", "either `ask` or `messages`"),
        ("{id: a, ask: x, tools: [none], expect: {calls: []}}", "no tool none"),
        ("{id: a, ask: x, expct: {says: [y]}}", "unknown expct"),
        ("{id: a, ask: x, expect: {says: [y]}}, {id: a, ask: x, expect: {says: [y]}}", "twice"),
    ],
)
def test_a_cell_that_could_not_fail_is_refused(tmp_path: Path, cell: str, why: str) -> None:
    for area in cells.AREAS:
        (tmp_path / f"{area}.yaml").write_text("cells: []\n")
    (tmp_path / "chat.yaml").write_text(f"cells: [{cell}]\n")
    with pytest.raises(cells.BadCells, match=why):
        cells.read(tmp_path)
