"""MCP servers as skills: real ones, of the official SDK, as a command and over HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.errors import ApiError
from tests.e2e.machine import free_port
from tests.skills.conftest import LIMIT_S, Workshop, gone, until

pytestmark = pytest.mark.anyio

SERVER = Path(__file__).with_name("servers.py")


def stdio(**more: Any) -> dict[str, Any]:
    return {"mcp": {"command": (sys.executable, str(SERVER), "stdio")}, **more}


@contextmanager
def over_http(port: int, *token: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(SERVER), "http", str(port), *token])
    try:
        yield process
    finally:
        process.kill()
        process.wait(LIMIT_S)


async def test_a_command_is_started_listed_and_called(workshop: Workshop) -> None:
    workshop.apply(weather=stdio(env=["WEATHER_KEY"], result=1000))
    offers = await workshop.skills.offers(["weather"])
    assert {"get_weather", "hang", "die", "look"} <= offers.keys()
    assert offers["get_weather"].tool.description == "Get the weather in a city"
    assert offers["get_weather"].tool.parameters["required"] == ["city"]
    done = await workshop.call("weather", "get_weather", city="Paris")
    assert (done.outcome, json.loads(done.text)["degrees"]) == ("ok", 21)
    (one,) = await workshop.skills.offers(["weather.look"])
    assert one == "look"
    with pytest.raises(ApiError, match="weather has no tool 'nothing'; it has: get_weather"):
        await workshop.skills.offers(["weather.nothing"])

    # What does not fit the schema never reaches the server; what it refuses is told to the model.
    wrong = await workshop.call("weather", "get_weather", town="Paris")
    assert wrong.outcome == "invalid_arguments"
    assert "'city' is a required property" in wrong.text
    refused = await workshop.call("weather", "get_weather", city="Atlantis")
    assert (refused.outcome, "no such city" in refused.text) == ("refused", True)
    assert (await workshop.call("weather", "long", length=1001)).outcome == "too_large"
    shown = (await workshop.call("weather", "picture")).text
    assert shown == "here it is:\n[image/png, 6 bytes, is no text and was left out]"

    # It runs where lmx.yaml lies, with what is named and no more.
    seen = json.loads((await workshop.call("weather", "look")).text)
    assert Path(seen["cwd"]) == workshop.folder.resolve()
    assert seen["env"].keys() <= {"PATH", "HOME", "LC_CTYPE", "WEATHER_KEY"}
    assert "s3cret" not in json.dumps(seen)


async def test_a_call_that_takes_too_long_ends_alone(workshop: Workshop) -> None:
    workshop.apply(weather=stdio(timeout=1.0))
    await workshop.skills.offers(["weather"])
    late, fine = await asyncio.gather(
        workshop.call("weather", "wait"), workshop.call("weather", "get_weather", city="Rome")
    )
    assert (late.outcome, fine.outcome) == ("timeout", "ok")
    assert (await workshop.call("weather", "get_weather", city="Rome")).outcome == "ok"


async def test_a_server_that_ends_is_started_again(workshop: Workshop) -> None:
    workshop.apply(weather=stdio())
    assert (await workshop.call("weather", "die")).outcome == "crashed"
    await workshop.until_state("weather", "ready")
    assert (await workshop.call("weather", "get_weather", city="Rome")).outcome == "ok"


async def test_a_server_that_takes_too_much_memory_is_ended(workshop: Workshop) -> None:
    workshop.apply(weather=stdio(memory=300 * 2**20))
    done = await workshop.call("weather", "hog", mebibytes=600)
    assert done.outcome == "crashed"
    assert "MiB of memory and was ended" in done.text
    await workshop.until_state("weather", "ready")


async def test_a_new_tool_is_offered_without_a_restart(workshop: Workshop) -> None:
    workshop.apply(weather=stdio(), few={**stdio(), "mcp": {**stdio()["mcp"], "tools": ("look", "nope")}})
    assert (await workshop.call("weather", "grow")).outcome == "ok"
    await until(lambda: "grown" in workshop.skills.status()["weather"]["tools"], "the new tool")
    assert (await workshop.call("weather", "grown")).text == "grown"

    # Only what the operator allows is there.
    assert list(await workshop.skills.offers(["few"])) == ["look"]
    assert workshop.skills.status()["few"]["left_out"] == {"nope": "the server offers no such tool"}
    with pytest.raises(ApiError, match=r"weather and few both have a tool called look; name one: few\.TOOL"):
        await workshop.skills.offers(["weather", "few"])


async def test_the_server_ends_with_its_client(workshop: Workshop) -> None:
    workshop.apply(weather=stdio())
    server = json.loads((await workshop.call("weather", "look")).text)["pid"]
    (client,) = workshop.pids("weather")
    psutil.Process(client).kill()
    await until(lambda: gone(server), "the server is gone")
    await until(lambda: workshop.pids("weather") not in ([], [client]), "another client")
    assert (await workshop.call("weather", "get_weather", city="Rome")).outcome == "ok"


async def test_a_client_that_ends_while_its_server_is_away_is_replaced(workshop: Workshop) -> None:
    port = free_port()
    with over_http(port):
        workshop.apply(far={"mcp": {"url": f"http://127.0.0.1:{port}/mcp"}})
        await workshop.until_state("far", "ready")
    await workshop.call("far", "get_weather", city="Paris")
    await workshop.until_state("far", "failed")
    (client,) = workshop.pids("far")
    psutil.Process(client).kill()
    with over_http(port):
        await workshop.until_state("far", "ready")
        assert (await workshop.call("far", "get_weather", city="Rome")).outcome == "ok"
        (other,) = workshop.pids("far")
        assert other != client


async def test_a_server_over_http_is_called_and_found_again_after_it_was_away(workshop: Workshop) -> None:
    port = free_port()
    form = {"mcp": {"url": f"http://127.0.0.1:{port}/mcp", "token": "WEATHER_KEY"}, "timeout": 20.0}
    workshop.apply(far=form)
    assert (await workshop.until_state("far", "failed"))["reason"]
    with over_http(port, "k1"):
        await workshop.until_state("far", "ready")
        done = await workshop.call("far", "get_weather", city="Paris")
        assert (done.outcome, json.loads(done.text)["degrees"]) == ("ok", 21)
    assert (await workshop.call("far", "get_weather", city="Paris")).outcome in ("unavailable", "error")
    await workshop.until_state("far", "failed")
    with over_http(port, "another"):
        await until(lambda: "HTTP 401" in workshop.skills.status()["far"]["reason"], "it is not let in")
    with over_http(port, "k1"):
        await workshop.until_state("far", "ready")
        assert (await workshop.call("far", "get_weather", city="Rome")).outcome == "ok"


@pytest.mark.parametrize(
    ("mcp", "reason"),
    [
        ({"command": ("no-such-program",)}, "there is no program 'no-such-program' here"),
        ({"command": ("./server.sh",)}, "there is no program './server.sh' here"),
        ({"command": ("false",)}, "the server ended"),
        ({"url": "http://127.0.0.1:1/mcp"}, "attempts failed"),
        (
            {"url": "http://127.0.0.1:1/mcp", "token": "NOT_SET"},
            "the environment variable NOT_SET is not set",
        ),
    ],
)
async def test_what_cannot_be_reached_says_why(workshop: Workshop, mcp: dict[str, Any], reason: str) -> None:
    workshop.apply(bad={"mcp": mcp})
    assert reason in (await workshop.until_state("bad", "failed"))["reason"]
