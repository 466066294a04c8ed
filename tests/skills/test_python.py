"""A Python function as a skill: what it sees, what it may not, and how each way of going wrong is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Any

import psutil
import pytest

from appliance.breakers import FAILURES
from appliance.errors import ApiError
from appliance.skills import skill
from reconciler.events import EventType
from tests.skills.conftest import Workshop, gone, until

pytestmark = pytest.mark.anyio

TOOLS = '''
import asyncio, datetime, enum, os, socket, subprocess, sys, time
from typing import Annotated
from pydantic import BaseModel, Field

class Unit(enum.Enum):
    celsius = "celsius"
    kelvin = "kelvin"

class Report(BaseModel):
    day: datetime.date
    degrees: float

def forecast(
    city: Annotated[str, Field(description="Name of a city")],
    day: datetime.date,
    unit: Unit = Unit.celsius,
) -> Report:
    """What the weather will be.

    For the next ten days.
    """
    if city == "Atlantis":
        raise ValueError("no such city: Atlantis")
    assert isinstance(day, datetime.date) and isinstance(unit, Unit)
    return Report(day=day, degrees=21.5)

async def later(text: str) -> str:
    """Say it a moment later"""
    await asyncio.sleep(0)
    return text * 2

def look() -> dict:
    """Look around"""
    held = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            held[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the listing's own
    return {"env": dict(os.environ), "fds": held, "here": os.listdir("."), "cwd": os.getcwd(),
            "group": os.getpgid(0) == os.getpid(), "stdin": sys.stdin.read()}

def sleep(seconds: float = 1000) -> str:
    """Sleep"""
    open("asleep", "w").close()
    time.sleep(seconds)
    return "slept"

def crash(how: str) -> str:
    """Crash"""
    if how == "abort":
        os.abort()
    if how == "exit":
        os._exit(7)
    if how == "sys.exit":
        sys.exit("bye")
    raise RuntimeError("broken inside")

def hog(mebibytes: int) -> int:
    """Take memory"""
    return len(bytearray(mebibytes << 20))

def chatter(bytes: int) -> str:
    """Print a lot"""
    print("hello", flush=True)
    while bytes > 0:
        os.write(1, b"x" * 8191 + b"\\n")
        bytes -= 8192
    return "done"

def long(length: int) -> str:
    """A long result"""
    return "x" * length

def strange() -> object:
    """A result without a form in JSON"""
    return object()

def surrogate() -> str:
    """Half of a pair"""
    return "a\\ud800b"

def family(own_session: bool) -> str:
    """Start a process and hang"""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=own_session)
    with open(os.path.join(os.path.dirname(__file__), "child"), "w") as file:
        file.write(str(child.pid))
    time.sleep(1000)
    return ""

def write_to_everything() -> int:
    """Write nonsense to whatever is open"""
    count = 0
    for fd in range(3, 256):
        try:
            os.write(fd, b"nonsense\\n")
            count += 1
        except OSError:
            pass
    return count

def pid() -> int:
    """Its process"""
    return os.getpid()

KEPT = []

def keep(mebibytes: int) -> int:
    """Take memory and keep it"""
    KEPT.append(b"x" * (mebibytes << 20))
    return os.getpid()

def silent(): pass

def positional(x, /):
    """Without names"""

number = 4
'''


@pytest.fixture
def tools(workshop: Workshop) -> Workshop:
    workshop.write(TOOLS)
    return workshop


def python(name: str, **more: Any) -> dict[str, Any]:
    return {"python": f"tools:{name}", **more}


async def test_signature_and_docstring_are_all_there_is_to_write(tools: Workshop) -> None:
    tools.apply(forecast=python("forecast"))
    (offer,) = (await tools.skills.offers(["forecast"])).values()
    assert offer.tool.description == "What the weather will be.\n\nFor the next ten days."
    schema = offer.tool.parameters
    assert schema["properties"]["city"] == {"type": "string", "description": "Name of a city"}
    assert schema["properties"]["day"] == {"type": "string", "format": "date"}
    assert schema["required"] == ["city", "day"]
    assert schema["additionalProperties"] is False
    done = await tools.call("forecast", city="Paris", day="2026-05-01", unit="kelvin")
    assert (done.outcome, json.loads(done.text)) == ("ok", {"day": "2026-05-01", "degrees": 21.5})


async def test_arguments_are_checked_before_the_function_sees_them(tools: Workshop) -> None:
    tools.apply(forecast=python("forecast", description="Another description"))
    wrong = await tools.call("forecast", city="Paris", day="someday", town="Paris")
    assert wrong.outcome == "invalid_arguments"
    assert "day: Input should be a valid date" in wrong.text
    assert "town: Unexpected keyword argument" in wrong.text
    refused = await tools.call("forecast", city="Atlantis", day="2026-05-01")
    assert (refused.outcome, refused.text) == ("refused", "ValueError: no such city: Atlantis")
    assert tools.skills.listing()[0]["tools"][0]["description"] == "Another description"
    assert tools.breakers.get("skill forecast").view().failures == 0


async def test_coroutines_are_awaited(tools: Workshop) -> None:
    tools.apply(later=python("later"))
    assert (await tools.call("later", text="so")).text == "soso"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_it_sees_nothing_of_ours(tools: Workshop) -> None:
    os.environ["LMX_TEST_SECRET"] = "s3cret"
    try:
        tools.apply(look=python("look", env=["WEATHER_KEY"]))
        seen = json.loads((await tools.call("look")).text)
    finally:
        del os.environ["LMX_TEST_SECRET"]
    assert "s3cret" not in json.dumps(seen)
    assert seen["env"].keys() <= {"PATH", "HOME", "TMPDIR", "LC_CTYPE", "WEATHER_KEY"}
    assert seen["env"]["WEATHER_KEY"] == "k1"
    assert seen["env"]["HOME"] == seen["cwd"]
    assert seen["here"] == []
    assert seen["group"]
    assert seen["stdin"] == ""
    kinds = sorted(target.split(":")[0] for target in seen["fds"].values())
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


async def test_a_call_that_takes_too_long_is_ended_and_the_next_one_runs(tools: Workshop) -> None:
    tools.apply(sleep=python("sleep", timeout=0.3))
    late = await tools.call("sleep")
    assert (late.outcome, late.text) == ("timeout", "it took longer than 0.3 s and was ended")
    assert (await tools.call("sleep", seconds=0)).text == "slept"


@pytest.mark.parametrize(
    ("how", "outcome", "text"),
    [
        ("abort", "crashed", "its process ended by SIGABRT"),
        ("exit", "crashed", "its process ended with status 7"),
        ("sys.exit", "error", "SystemExit: bye"),
        ("raise", "error", "RuntimeError: broken inside"),
    ],
)
async def test_a_crash_is_told_and_the_next_call_runs(
    tools: Workshop, how: str, outcome: str, text: str
) -> None:
    tools.apply(crash=python("crash"), pid=python("pid"))
    done = await tools.call("crash", how=how)
    assert (done.outcome, done.text) == (outcome, text)
    assert (await tools.call("crash", how=how)).outcome == outcome
    assert (await tools.call("pid")).outcome == "ok"


async def test_memory_has_a_limit(tools: Workshop) -> None:
    tools.apply(hog=python("hog", memory=128 * 2**20))
    assert (await tools.call("hog", mebibytes=16)).outcome == "ok"
    assert (await tools.call("hog", mebibytes=1024)).outcome == "out_of_memory"
    assert (await tools.call("hog", mebibytes=16)).outcome == "ok"


async def test_a_process_that_has_grown_is_replaced_before_it_fails(tools: Workshop) -> None:
    tools.apply(keep=python("keep", memory=256 * 2**20))
    first, second, third = [(await tools.call("keep", mebibytes=100)).text for _ in range(3)]
    assert first == second  # after it, more than half of what it may have is taken
    assert third != second
    assert tools.calls == [("keep", "ok")] * 3


async def test_processes_beyond_the_warm_one_end_when_nobody_needs_them(
    tools: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skill, "IDLE_S", 0.0)
    tools.apply(sleep=python("sleep", timeout=1000.0))
    calls = [asyncio.create_task(tools.call("sleep", seconds=2)) for _ in range(3)]
    await until(lambda: len(tools.pids("sleep")) == 3, "three processes")
    assert [(await call).text for call in calls] == ["slept"] * 3
    await until(lambda: len(tools.pids("sleep")) == 1, "one is left")
    assert (await tools.call("sleep", seconds=0)).text == "slept"


async def test_what_it_prints_harms_nobody(tools: Workshop) -> None:
    tools.apply(chatter=python("chatter"))
    assert (await tools.call("chatter", bytes=100_000)).text == "done"
    flood = await tools.call("chatter", bytes=10**12)
    assert flood.outcome == "crashed"
    assert "printed more than" in flood.text


async def test_results_have_a_limit_and_a_form(tools: Workshop) -> None:
    tools.apply(long=python("long", result=1000), strange=python("strange"), surrogate=python("surrogate"))
    assert len((await tools.call("long", length=1000)).text) == 1000
    done = await tools.call("long", length=1001)
    assert (done.outcome, done.text) == (
        "too_large",
        "the result has 1001 bytes, and 1000 is the most; ask for less",
    )
    assert (await tools.call("strange")).outcome == "error"
    assert (await tools.call("surrogate")).text == "a?b"


@pytest.mark.parametrize("own_session", [False, True])
async def test_what_it_started_ends_with_it(tools: Workshop, own_session: bool) -> None:
    tools.apply(family=python("family", timeout=1000.0))
    call = asyncio.create_task(tools.call("family", own_session=own_session))
    note = tools.folder / "child"
    await until(lambda: note.exists() and bool(note.read_text()), "a grandchild")
    child = int(note.read_text())
    assert not gone(child)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: gone(child), "the grandchild is gone")


async def test_a_cancelled_call_ends_at_once_and_counts_as_no_failure(tools: Workshop) -> None:
    tools.apply(sleep=python("sleep", timeout=1000.0))
    call = asyncio.create_task(tools.call("sleep"))
    await until(lambda: any((tools.state / "skills").glob("*/asleep")), "the call runs")
    (pid,) = tools.pids("sleep")
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: gone(pid), "its process is gone")
    assert tools.calls == [("sleep", "cancelled")]
    assert tools.breakers.get("skill sleep").view().failures == 0


async def test_nonsense_on_its_connection_ends_that_process_alone(tools: Workshop) -> None:
    tools.apply(write=python("write_to_everything"), pid=python("pid"))
    assert (await tools.call("write")).outcome == "crashed"
    assert (await tools.call("pid")).outcome == "ok"
    assert (await tools.call("write")).outcome == "crashed"


async def test_calls_run_side_by_side_each_in_a_process_of_its_own(tools: Workshop) -> None:
    tools.apply(sleep=python("sleep", timeout=1000.0, concurrency=2), pid=python("pid"))
    calls = [asyncio.create_task(tools.call("sleep")) for _ in range(3)]
    rooms = tools.state / "skills"
    await until(lambda: len(list(rooms.glob("*/asleep"))) == 2, "two calls run")
    assert len(tools.pids("sleep")) == 2
    assert len({(await tools.call("pid")).text for _ in range(3)}) == 1  # warm, and used again
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_a_call_that_finds_no_place_says_so_and_is_no_failure(tools: Workshop) -> None:
    tools.apply(sleep=python("sleep", timeout=1.0, concurrency=1))
    one, other = await asyncio.gather(tools.call("sleep"), tools.call("sleep"))
    assert sorted((one.outcome, other.outcome)) == ["busy", "timeout"]
    assert tools.breakers.get("skill sleep").view().failures == 1


async def test_five_failures_open_the_breaker_and_a_success_closes_it(tools: Workshop) -> None:
    tools.apply(crash=python("crash"), pid=python("pid"))
    for _ in range(FAILURES):
        assert (await tools.call("crash", how="raise")).outcome == "error"
    left_alone = await tools.call("crash", how="raise")
    assert left_alone.outcome == "unavailable"
    assert "failed 5 times in a row and is left alone" in left_alone.text
    assert "broken inside" not in left_alone.text  # what a skill says may hold what a client asked
    status = tools.skills.status()["crash"]
    assert (status["state"], status["reason"]) == ("left_alone", "it raised an error; the log has it")
    assert (await tools.call("pid")).outcome == "ok"
    tools.breakers.get("skill crash").retry()
    assert (await tools.call("crash", how="sys.exit")).outcome == "error"
    assert tools.skills.states()["crash"] == "left_alone"
    tools.skills.restart()
    tools.write("def crash(how: str) -> str:\n    'Mended'\n    return 'well'\n")
    tools.apply(crash=python("crash", timeout=5.0))
    assert (await tools.call("crash", how="raise")).text == "well"
    assert tools.skills.states()["crash"] == "ready"


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"python": "os:system"}, "there is no module os in "),
        ({"python": "subprocess:run"}, "there is no module subprocess in "),
        ({"python": "nowhere:at_all"}, "there is no module nowhere in "),
        ({"python": "tools:nothing"}, "tools has no nothing"),
        ({"python": "tools:number"}, "tools:number is no function, but int"),
        ({"python": "tools:silent"}, "tools:silent has neither docstring nor description"),
        ({"python": "tools:positional"}, "tools:positional has parameters without names"),
        ({"python": "broken:f"}, "broken cannot be imported: ZeroDivisionError"),
        ({"python": "typing_extensions:f"}, "the name typing_extensions is taken"),
        ({"python": "tools:pid", "env": ["NOT_SET"]}, "the environment variable NOT_SET is not set"),
    ],
)
async def test_what_cannot_be_a_skill_says_why_and_requests_for_it_are_refused(
    tools: Workshop, form: dict[str, Any], reason: str
) -> None:
    tools.write("1 / 0\n", "broken.py")
    tools.write("def f():\n    'Shadows'\n", "typing_extensions.py")
    tools.apply(bad=form, pid=python("pid"))
    with pytest.raises(ApiError, match="the skill bad cannot be used now") as refused:
        await tools.call("bad")
    assert (refused.value.code, refused.value.status) == ("skill_unavailable", 503)
    assert reason in tools.skills.status()["bad"]["reason"]
    assert (EventType.SKILL_FAILED, f"bad: {tools.skills.status()['bad']['reason']}") in tools.events
    assert (await tools.call("pid")).outcome == "ok"


async def test_an_edit_of_one_skill_touches_no_other(tools: Workshop) -> None:
    tools.apply(pid=python("pid"), sleep=python("sleep", timeout=1000.0))
    before = (await tools.call("pid")).text
    call = asyncio.create_task(tools.call("sleep"))
    await until(lambda: any((tools.state / "skills").glob("*/asleep")), "the call runs")
    (old,) = tools.pids("sleep")
    tools.apply(pid=python("pid"), sleep=python("sleep", timeout=5.0), later=python("later"))
    assert (await tools.call("later", text="a")).text == "aa"
    assert (await tools.call("sleep", seconds=0)).text == "slept"
    assert (await tools.call("pid")).text == before
    assert not gone(old)  # a call that runs goes on to its end
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await until(lambda: gone(old), "the old process is gone")
    tools.apply(pid=python("pid"))
    assert list(tools.skills.status()) == ["pid"]
    with pytest.raises(ApiError, match="there is no skill 'later' here; there is: pid"):
        await tools.call("later", text="a")


async def test_edited_code_counts_after_a_restart(tools: Workshop) -> None:
    tools.apply(pid=python("pid"))
    (before,) = [int((await tools.call("pid")).text)]
    tools.write("def pid() -> str:\n    'Changed'\n    return 'changed'\n")
    tools.skills.restart()
    await until(lambda: gone(before), "the old process is gone")
    await until(lambda: tools.skills.listing()[0]["tools"][0]["description"] == "Changed", "the new code")
    assert (await tools.call("pid")).text == "changed"


async def test_a_killed_process_is_replaced(tools: Workshop) -> None:
    tools.apply(pid=python("pid"))
    pid = int((await tools.call("pid")).text)
    psutil.Process(pid).send_signal(signal.SIGKILL)
    await until(lambda: tools.pids("pid") not in ([], [pid]), "another process")
    assert (await tools.call("pid")).outcome == "ok"
