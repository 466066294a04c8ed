"""Skills end to end: the demo model calls them, as Python functions and as tools of an MCP server."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.machine import LIMIT_S, ROOT, Machine, gone
from tests.server.talk import talk

PARIS = "What is the weather in Paris?"
SUNNY = "The weather in Paris: sunny, 21 degrees."
TOOLS = '''
import pathlib, time

def get_weather(city: str) -> dict:
    """Get the weather in a city"""
    return {"sky": "sunny", "degrees": 21}

def get_time(city: str) -> dict:
    """Get the time in a city"""
    (pathlib.Path(__file__).parent / "asked").touch()
    time.sleep(1000)
    return {}
'''
SERVER = (sys.executable, str(ROOT / "tests" / "skills" / "servers.py"), "stdio")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("skills"))
    (made.folder / "tools.py").write_text(TOOLS)
    made.up(made.spec(skills=SKILLS))
    yield made
    made.close()


SKILLS: dict[str, Any] = {
    "get_weather": {"python": "tools:get_weather"},
    "get_time": {"python": "tools:get_time", "timeout": "15m"},
    "far": {"mcp": {"command": list(SERVER)}},
    "broken": {"python": "tools:nothing"},
}


def client(machine: Machine) -> openai.OpenAI:
    url = f"http://127.0.0.1:{machine.port}/v1"
    return openai.OpenAI(base_url=url, api_key="none", timeout=LIMIT_S, max_retries=0)


def skills_of(part: Any) -> list[dict[str, Any]]:
    return list((part.model_extra or {}).get("lmx_skills", []))


def test_what_there_is_is_listed(up: Machine) -> None:
    up.until(lambda s: s["skills"]["far"]["state"] == "ready" and s["skills"]["broken"]["state"] == "failed")
    status, body = up.call("GET", "/v1/skills")
    assert status == 200
    found = {skill["id"]: skill for skill in body["data"]}
    assert (found["get_weather"]["kind"], found["get_weather"]["state"]) == ("python", "ready")
    (tool,) = found["get_weather"]["tools"]
    assert (tool["name"], tool["parameters"]["required"]) == ("get_weather", ["city"])
    assert found["broken"]["state"] == "failed"
    assert "tools has no nothing" in found["broken"]["reason"]
    assert "get_weather" in [tool["name"] for tool in found["far"]["tools"]]


@pytest.mark.parametrize("skill", ["get_weather", "far.get_weather"])
def test_the_model_calls_a_skill_and_answers_with_its_result(up: Machine, skill: str) -> None:
    up.until(lambda s: s["skills"]["far"]["state"] == "ready")
    with client(up) as api:
        answer = api.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": PARIS}], extra_body={"skills": [skill]}
        )
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (SUNNY, "stop")
    assert choice.message.tool_calls is None
    (step,) = skills_of(choice.message)
    assert (step["skill"], step["name"]) == (skill.partition(".")[0], "get_weather")
    assert json.loads(step["arguments"]) == {"city": "Paris"}
    assert (step["status"], step["outcome"]) == ("done", "ok")
    assert json.loads(step["result"])["degrees"] == 21
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens  # the second round computes its end only


def test_each_choice_makes_its_own_calls(up: Machine) -> None:
    status, body = up.ask(PARIS, skills=["get_weather"], n=2)
    assert status == 200, body
    for choice in body["choices"]:
        assert choice["message"]["content"] == SUNNY
        assert [step["outcome"] for step in choice["message"]["lmx_skills"]] == ["ok"]


def test_a_stream_tells_of_each_step_and_says_the_same(up: Machine) -> None:
    with client(up) as api:
        chunks = list(
            api.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": PARIS}],
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"skills": ["get_weather", "get_time"]},
            )
        )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == SUNNY
    assert not any(delta.tool_calls for delta in deltas)
    steps = [step for delta in deltas for step in skills_of(delta)]
    assert [step["status"] for step in steps] == ["running", "done"]
    assert steps[0]["id"] == steps[1]["id"]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 10


def test_a_websocket_has_them_too(up: Machine) -> None:
    async def chat() -> tuple[str, list[dict[str, Any]]]:
        async with talk(up.port) as line:
            await line.chat("a", messages=[{"role": "user", "content": PARIS}], skills=["get_weather"])
            texts = await line.all_done(["a"])
            return texts["a"], line.read["a"]

    text, chunks = asyncio.run(chat())
    assert text == SUNNY
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
    steps = [step for delta in deltas for step in delta.get("lmx_skills", ())]
    assert [step["status"] for step in steps] == ["running", "done"]


def test_the_call_is_handed_over_where_that_is_asked_for(up: Machine) -> None:
    status, body = up.ask(PARIS, skills=["get_weather"], skill_mode="return")
    assert status == 200, body
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
        "get_weather",
        {"city": "Paris"},
    )


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"skills": ["nothing"]}, 400, "there is no skill 'nothing' here; there is: get_weather"),
        ({"skills": ["broken"]}, 503, "the skill broken cannot be used now: tools has no nothing"),
        ({"skills": ["get_weather", "far"]}, 400, "both have a tool called get_weather"),
        ({"skill_mode": "run"}, 400, "skill_mode: needs skills to be named"),
        ({"skills": ["get_weather"], "skill_mode": "both"}, 400, "skill_mode"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    up: Machine, fields: dict[str, Any], status: int, message: str
) -> None:
    code, body = up.ask(PARIS, **fields)
    assert code == status
    assert message in body["error"]["message"]
    assert body["error"]["param"] in fields
    assert up.answer("Who are you?")  # chat does not mind


def test_a_client_that_leaves_ends_the_call_that_runs(up: Machine) -> None:
    messages = [{"role": "user", "content": "What time is it in Tokyo?"}]
    body = {"messages": messages, "skills": ["get_time"], "stream": True}
    asked = up.folder / "asked"
    url = f"http://127.0.0.1:{up.port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=LIMIT_S):
        up.until(lambda _: asked.exists())
        (pid,) = up.status()["skills"]["get_time"]["pids"]
        process = psutil.Process(pid)
    assert gone([process])
    up.until(lambda s: s["skills"]["get_time"]["calls"].get("cancelled") == 1)
    assert up.status()["traffic"]["in_flight"] == 0


def test_skills_come_and_go_under_traffic_and_metrics_count_their_calls(up: Machine) -> None:
    engine = up.status()["models"]["demo"]["pid"]
    before = up.status()["skills"]["get_weather"]["pids"]
    up.write(up.spec(skills={**SKILLS, "forecast": {"python": "tools:get_weather"}}))
    up.until_synced()
    up.until(lambda s: s["skills"].get("forecast", {}).get("state") == "ready")
    now = up.status()
    assert (now["models"]["demo"]["pid"], now["skills"]["get_weather"]["pids"]) == (engine, before)
    assert up.answer(PARIS, skills=["get_weather"]) == SUNNY
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/metrics", timeout=LIMIT_S) as answer:
        lines = answer.read().decode().splitlines()
    assert any(line.startswith('lmx_skill_calls_total{outcome="ok",skill="get_weather"} ') for line in lines)
    assert any(line.startswith('lmx_skill_duration_seconds_count{skill="get_weather"} ') for line in lines)
    assert 'lmx_breaker_state{name="skill get_weather"} 0.0' in lines
    up.write(up.spec(skills={"get_weather": SKILLS["get_weather"]}))
    up.until_synced()
    up.until(lambda s: list(s["skills"]) == ["get_weather"])
    assert up.answer(PARIS, skills=["get_weather"]) == SUNNY


def test_its_processes_end_with_the_appliance(up: Machine) -> None:
    pids = up.status()["skills"]["get_weather"]["pids"]
    processes = [psutil.Process(pid) for pid in pids]
    assert processes
    engines = up.engines()
    up.kill()
    assert gone([*processes, *engines])
    left = [room / "left" for room in (up.folder / "state" / "skills").iterdir()]
    assert len(left) == len(pids)
    for note in left:
        note.touch()
    up.up()
    assert not any(note.exists() for note in left)  # what could not be tidied up then is tidied up now
    assert up.stop() == 0
    assert not (up.folder / "state" / "skills").exists()
