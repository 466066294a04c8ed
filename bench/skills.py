"""What it costs to have a call run by LMX: in the process of a Python function, and by an MCP server.

Both do nothing but answer, so what is timed is the way there and back: sockets, JSON, checks of the
arguments, and, for MCP, the SDK on both sides of a pipe.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.breakers import Breakers
from appliance.skills.registry import Offer, Skills
from bench.speed import Row
from reconciler.spec import Skill

CALLS = 300
FUNCTION = '''
def echo(text: str) -> str:
    """Say it again"""
    return text
'''
SERVER = '''
from mcp.server.mcpserver import MCPServer

server = MCPServer("echo")


@server.tool()
def echo(text: str) -> str:
    """Say it again"""
    return text


server.run("stdio")
'''


def run(scratch: Path, rounds: int) -> Iterator[Row]:
    folder = scratch / "skills"
    folder.mkdir()
    (folder / "tools.py").write_text(FUNCTION, encoding="utf-8")
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    python = Skill.model_validate({"python": "tools:echo"})
    mcp = Skill.model_validate({"mcp": {"command": (sys.executable, "server.py")}})
    for name, skill, goal in (("a Python function", python, 5.0), ("a tool of an MCP server", mcp, None)):
        start, call = asyncio.run(_measure(folder, scratch / "state", skill, rounds))
        yield Row(f"skills: a call of {name}, p50", call * 1000, goal, at_least=False, unit="ms")
        yield Row(f"skills: start of {name}", start, None, unit="s")


async def _measure(folder: Path, state: Path, form: Skill, rounds: int) -> tuple[float, float]:
    """(seconds to start, seconds of a call), the median of all rounds."""
    starts, calls = [], []
    for _ in range(rounds):
        skills = Skills(folder, state, Breakers(lambda _: None), lambda *_: None, lambda *_: None)
        try:
            began = time.perf_counter()
            skills.apply({"echo": form})
            offer = (await skills.offers(["echo"]))["echo"]
            starts.append(time.perf_counter() - began)
            calls += [await _call(skills, offer) for _ in range(CALLS)]
        finally:
            await skills.close()
    return statistics.median(starts), statistics.median(calls)


async def _call(skills: Skills, offer: Offer) -> float:
    began = time.perf_counter()
    result = await skills.call(offer, {"text": "hello"})
    took = time.perf_counter() - began
    if result.outcome != "ok":
        raise RuntimeError(f"{result.outcome}: {result.text}")
    return took
