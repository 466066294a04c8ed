"""`lmx chat`: one question, a conversation, and how both fail."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.standin import Appliance, Lmx, Reply

CHAT = "POST /v1/chat/completions"


def said(*pieces: str, finish: str = "stop", done: bool = True) -> Reply:
    deltas: list[dict[str, Any]] = [{"role": "assistant"}, *({"content": piece} for piece in pieces)]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Reply([": keep-alive\n\n", *events, *(["data: [DONE]\n\n"] if done else [])])


def test_one_question_is_answered_as_a_plain_line(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, said("Hel", "lo."))
    result = lmx("chat", "Hi", "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0")
    assert (result.code, result.out, result.err) == (0, "Hello.\n", "")
    assert appliance.asked[-1][1] == {
        "model": "default",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "stream": True,
    }


def test_a_question_may_come_through_a_pipe(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, said("yes"))
    assert lmx("chat", stdin="Are you there?\n").out == "yes\n"
    assert appliance.asked[-1][1]["messages"][0]["content"] == "Are you there?"
    assert lmx("chat", stdin=" ").code == 1


def test_a_conversation_remembers_forgets_and_ends(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, said("one"), said("two"), said("three"))
    shown = lmx.terminal("chat", types=("first\n", "second\n", "/reset\n", "third\n", "/exit\n"))
    assert shown.code == 0
    assert "Talking to default at" in shown.out
    bodies = [body for route, body, _ in appliance.asked if route == CHAT]
    assert [[message["content"] for message in body["messages"]] for body in bodies] == [
        ["first"],
        ["first", "one", "second"],
        ["third"],
    ]


def thought(text: str, *pieces: str) -> Reply:
    chunk = {"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]}
    return Reply([f"data: {json.dumps(chunk)}\n\n", *said(*pieces).body])


def test_reasoning_is_shown_dim_on_a_terminal_and_sent_back(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, thought("I see.\n", "\nHello.", " You?"), said("two"))
    shown = lmx.terminal("chat", types=("first\n", "second\n", "/exit\n"))
    assert "\x1b[2mI see." in shown.out
    assert "\x1b[0m\n\nHello. You?" in shown.out
    bodies = [body for route, body, _ in appliance.asked if route == CHAT]
    assert bodies[1]["messages"][1] == {
        "role": "assistant",
        "content": "\nHello. You?",
        "reasoning_content": "I see.\n",
    }


def test_a_pipe_gets_the_answer_alone(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, thought("I see.", "Hello."))
    assert lmx("chat", "Hi").out == "Hello.\n"


def test_a_failed_answer_costs_that_answer_and_not_the_conversation(lmx: Lmx, appliance: Appliance) -> None:
    error = {"error": {"message": "no model is loaded.", "code": "no-model-loaded"}}
    appliance.on(CHAT, Reply(error, 503), said("back"))
    shown = lmx.terminal("chat", types=("first\n", "second\n", "\x04"))
    assert shown.code == 0
    assert "no model is loaded. (no-model-loaded)" in shown.out
    assert "back" in shown.out
    bodies = [body for route, body, _ in appliance.asked if route == CHAT]
    assert [message["content"] for message in bodies[1]["messages"]] == ["second"]


def test_an_error_amid_the_stream_is_an_error(lmx: Lmx, appliance: Appliance) -> None:
    failed = 'data: {"error": {"message": "the engine crashed", "code": "engine_failed"}}\n\n'
    appliance.on(CHAT, Reply([*said("Hel", done=False).body, failed]))
    result = lmx("chat", "Hi")
    assert result.code == 1
    assert result.out.startswith("Hel")
    assert "the engine crashed" in result.err


def test_a_stream_that_just_ends_is_not_taken_for_an_answer(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, said("Hel", done=False))
    assert "broke off" in lmx("chat", "Hi").err
    appliance.on(CHAT, Reply(said("Hel", done=False).body, breaks=True))
    result = lmx("chat", "Hi")
    assert result.code == 1
    assert "broke" in result.err


def test_an_answer_that_was_cut_says_so(lmx: Lmx, appliance: Appliance) -> None:
    appliance.on(CHAT, said("Hel", finish="length"))
    result = lmx("chat", "Hi")
    assert result.code == 0
    assert "--max-tokens" in result.err


def test_no_appliance_is_told_before_the_first_question(lmx: Lmx) -> None:
    shown = lmx.terminal("chat", "--url", "127.0.0.1:9")
    assert shown.code == 1
    assert "no appliance answers" in shown.out
