"""One changing line is left out of system prompts, and nothing else ever is."""

from __future__ import annotations

import json

import pytest

from appliance.server import rows, schema
from appliance.server.parse import parse
from appliance.server.volatile import without

LINE = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;"


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([f"{LINE}\nYou are Claude Code."], "You are Claude Code."),
        ([f"{LINE}\r\nYou are Claude Code."], "You are Claude Code."),
        ([LINE, "You are ", "Claude Code."], "You are Claude Code."),
        ([f"{LINE}\n", "You are Claude Code."], "You are Claude Code."),
        (["You are ", LINE, "Claude Code."], "You are Claude Code."),
        ([LINE], ""),
        (["x-anthropic-billing-header:"], ""),
        ([f"{LINE}\n\n  two spaces"], "\n  two spaces"),
    ],
)
def test_the_line_is_left_out(texts: list[str], kept: str) -> None:
    assert without(texts) == (kept, True)


@pytest.mark.parametrize(
    "texts",
    [
        [""],
        [],
        ["You are Claude Code."],
        [f"You are Claude Code.\n{LINE}"],
        [f" {LINE}\nYou"],
        [f"\n{LINE}"],
        [f"X-Anthropic-Billing-Header: {LINE}"],
        ["x-anthropic-billing-header\nYou"],
        ["x-anthropic-billing-headers: a\nYou"],
        ["You are ", f"{LINE}\nand more in the same part"],
    ],
)
def test_whatever_else_there_is_stays(texts: list[str]) -> None:
    assert without(texts) == ("".join(texts), False)


def chat(*messages: dict[str, object]) -> rows.Chat:
    return rows.chat(parse(json.dumps({"messages": messages, "n": 2}).encode(), schema.ChatRequest))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_two_requests_that_differ_in_that_line_alone_are_the_same_prompt(role: str) -> None:
    asked = {"role": "user", "content": "Hello"}
    found = [
        chat({"role": role, "content": content}, asked)
        for content in (
            f"{LINE}\nYou are Claude Code.",
            "x-anthropic-billing-header: cch=other;\nYou are Claude Code.",
            [{"type": "text", "text": LINE}, {"type": "text", "text": "You are Claude Code."}],
        )
    ]
    bare = chat({"role": role, "content": "You are Claude Code."}, asked)
    assert [one.rows for one in found] == [bare.rows] * 3
    assert [one.left_out for one in found] == [True] * 3
    assert not bare.left_out


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_what_others_say_is_theirs(role: str) -> None:
    found = chat({"role": role, "content": f"{LINE}\nWhat does this mean?"})
    assert found.rows[0].messages == [{"role": role, "content": f"{LINE}\nWhat does this mean?"}]
    assert not found.left_out
