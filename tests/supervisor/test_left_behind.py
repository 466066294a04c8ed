"""Nothing is left behind: no process of an earlier run, no descriptor, no task, no file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from appliance.supervisor import pidfiles
from appliance.supervisor.pidfiles import reap_orphans
from reconciler.observed import EngineState
from tests.supervisor.conftest import ROOT, prompt, standin, until

Make = Callable[..., Any]


@pytest.fixture
def sleeper() -> Any:
    """A process that has nothing to do with us."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(command, start_new_session=True) as process:
        yield process
        process.kill()


async def test_each_engine_has_a_file_that_names_it(world: Make, tmp_path: Path) -> None:
    async with world(command=standin("stubborn")) as w:
        engine = w.spawn("a/b:c")
        seen = await w.reach(engine)
        (path,) = (tmp_path / "engines").glob("*")
        record = json.loads(path.read_text())
        assert (record["id"], record["pid"]) == ("a/b:c-1", seen.pid)
        assert record["created"] == pytest.approx(psutil.Process(seen.pid).create_time(), abs=1)


def test_an_engine_of_an_earlier_run_is_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    pidfiles.write(tmp_path, "demo-7", sleeper.pid)
    assert reap_orphans(tmp_path) == ["demo-7"]
    assert not psutil.pid_exists(sleeper.pid)
    assert reap_orphans(tmp_path) == []


@pytest.mark.parametrize(("field", "value"), [("created", 1.0), ("command", ["other"])])
def test_a_stranger_that_got_the_number_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], field: str, value: Any
) -> None:
    pidfiles.write(tmp_path, "demo-7", sleeper.pid)
    path = tmp_path / "engines/demo-7.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert reap_orphans(tmp_path) == []
    assert sleeper.poll() is None
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"id": "x", "pid": "1", "created": 0, "command": []}']
)
def test_a_damaged_file_kills_nobody_and_goes(tmp_path: Path, text: str) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines/demo-1.json").write_text(text)
    (tmp_path / "engines/demo-2.tmp").write_text("{}")
    assert reap_orphans(tmp_path) == []
    assert list((tmp_path / "engines").iterdir()) == []


def test_a_folder_that_never_was_has_no_orphans(tmp_path: Path) -> None:
    assert reap_orphans(tmp_path / "new") == []


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
async def test_thirty_engines_leave_nothing(world: Make, loop_factory: Any) -> None:
    """Descriptors, tasks and processes are counted after every test; this one has much to leave."""
    modes = ["stubborn", "exits3", "garbage", "leaves-a-child", "half"]
    for mode in modes:
        async with world(command=standin(mode)) as w:
            engines = [w.spawn() for _ in range(6)]
            if mode != "stubborn":
                await until(lambda w=w, e=engines: all(w.see(x).state is EngineState.EXITED for x in e))
            await w.engines.close(grace=0.1)


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop], ids=["uvloop"])
async def test_all_of_it_works_on_uvloop(world: Make, loop_factory: Any) -> None:
    async with world() as w:
        engine = await w.serving()
        streams = [await w.router.open(None, prompt(100)) for _ in range(4)]
        assert [(await stream.collect()).tokens for stream in streams] == [100] * 4
        w.engines.stop(engine, "unload")
        seen = await w.reach(engine, EngineState.EXITED)
        assert (seen.failure, seen.stop_reason) == (None, "unload")


PARENT = """
import asyncio, sys
from pathlib import Path
from appliance.supervisor.pool import Engines
from tests.supervisor.conftest import World, prompt
async def main():
    world = World(Engines(Path(sys.argv[1])))
    engine = await world.serving()
    stream = await world.router.open(None, prompt(4000))
    await anext(stream)
    print(world.see(engine).pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


def test_kill_9_of_the_parent_leaves_no_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.01)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert reap_orphans(tmp_path) == []
    assert list((tmp_path / "engines").iterdir()) == []
