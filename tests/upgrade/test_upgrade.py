"""Another version or profile takes over: nobody is refused, no stream is cut, a failure changes nothing.

The short form. `make upgrade` does it fifty times, with what takes longer to fail (test_heavy).
"""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.holder.place import Place
from tests.e2e.machine import free_port, gone
from tests.upgrade.held import Held
from tests.upgrade.load import Load


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    made = Held(tmp_path_factory.mktemp("held"))
    yield made
    made.close()


@pytest.fixture
def held(one: Held) -> Held:
    """Up, whatever test came before."""
    return one if one.process is not None and one.process.poll() is None else one.up()


def test_an_upgrade_and_a_switch_under_load_lose_nothing(held: Held) -> None:
    old, held.port = held.port, free_port()
    held.write(held.spec())  # an edited port: the holder keeps the new one
    held.until_synced()
    held.write_profile("night")
    first = held.service()
    with Load(held.port, streams=4, pace_s=0.4).running() as load:
        upgrade = held.upgraded("upgrade", "--python", str(held.pythons("newer")))
        after = held.service()
        switch = held.upgraded("switch", "--to", "night", "--graceful")
    assert load.errors == []
    assert min(load.done[kind] for kind in ("fresh", "keeping", "ws")) > 0
    assert (upgrade["result"], upgrade["from"]["version"]) == ("done", first["version"])
    assert (after["version"], after["stage"]) == ("9.9.9", "serving")
    assert after["since"] > first["since"]
    night = held.service()
    assert (switch["to"]["profile"], night["profile"]) == ("night", "night")
    assert (held.folder / "state/profiles/night/history.db").exists()
    assert "profile night, since" in held.verb("status").stdout
    held.until_alone()
    assert listening(held) == {held.port}
    assert old not in listening(held)


def listening(held: Held) -> set[int]:
    assert held.process is not None
    holder = psutil.Process(held.process.pid)
    return {
        c.laddr.port
        for process in (holder, *holder.children(recursive=True))
        for c in process.net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }


def test_one_that_cannot_serve_leaves_the_other_as_it_was(held: Held) -> None:
    before, (process,) = held.service(), held.appliances()
    with Load(held.port, streams=2, pace_s=0.4).running() as load:
        for mode, within, words in (
            ("older", "60s", "was written by a later LMX (its form is 1, this version knows 0)"),
            ("silent", "1s", "not ready in time"),
            ("dying", "60s", "SIGKILL"),
        ):
            fails(held, mode, within, words)
    assert load.errors == []
    after = held.service()
    assert (after["since"], after["stage"], held.appliances()) == (before["since"], "serving", [process])


def fails(held: Held, mode: str, within: str, words: str) -> None:
    """An upgrade to a Python that fails in this way, said wherever one would look."""
    done = held.verb("upgrade", "--python", str(held.pythons(mode)), "--within", within)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert "what serves, serves on" in done.stderr
    last = held.service()["last_upgrade"]
    assert (last["result"], words in last["reason"]) == ("failed", True)
    assert words in next(e["message"] for e in held.status()["events"][::-1] if e["type"] == "UpgradeFailed")


def test_no_python_no_profile_and_no_holder_are_said_at_once(held: Held, tmp_path: Path) -> None:
    nothing = tmp_path / "python"
    assert f"there is no Python at {nothing}" in held.verb("upgrade", "--python", str(nothing)).stderr
    nothing.write_text("no program")
    assert "cannot be started: Permission denied" in held.verb("upgrade", "--python", str(nothing)).stderr
    missing = held.verb("switch", "--to", "noon")
    assert missing.returncode == 1
    assert "there is no profile 'noon'" in missing.stderr
    assert "letters, digits, dashes" in held.verb("switch", "--to", "../x").stderr
    alone = Held(tmp_path)
    alone.write(alone.spec())
    assert "lmx serve -f" in alone.verb("upgrade").stderr
    assert held.process is not None
    again = held.verb("serve")
    assert again.returncode == 1
    assert f"process {held.process.pid} holds this file already" in again.stderr


def test_what_is_no_question_ends_a_connection_and_not_the_holder(held: Held) -> None:
    place = held.place()
    path = next(place.folder.glob("*.sock"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    for bad in (
        b"\n{\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b'{"do": "dance"}\n',
        b'{"do": "upgrade", "python": "python"}\n',
        b'{"do": "upgrade", "within_s": "soon"}\n',
        b'{"do": "switch", "profile": 3}\n',
        b'{"do": "upgrade", "strategy": "hope"}\n',
        b'{"fds": 3}\n',
        b"[" * 100_000,
        b'{"do": "status"}\n{"do": "status"}\n',
    ):
        assert b'"ok": false' in asked(place, bad) or b"status" in bad
    with place.connect(5) as silent:
        silent.send(b'{"do": "sta')
    assert b'"current"' in asked(place, b'{"do": "status"}\n')
    assert held.answer("hi") == held.answer("hi")


def asked(place: Place, question: bytes) -> bytes:
    with place.connect(5) as sock:
        try:
            sock.sendall(question)
            answer = b""
            while part := sock.recv(65536):
                answer += part
        except ConnectionError:  # it has answered and closed before it read all of what came
            pass
        return answer


def test_while_a_crashed_appliance_is_started_again_clients_wait(held: Held) -> None:
    (process,) = held.appliances()
    engines = process.children()
    process.kill()
    assert gone([process, *engines])
    assert held.answer("hi")  # nobody accepts now: the connection waits for the next one
    (after,) = held.appliances()
    assert after != process
    assert held.status()["version"]


def test_sigterm_is_passed_on_and_ends_everything(held: Held) -> None:
    assert held.process is not None
    below = psutil.Process(held.process.pid).children(recursive=True)
    assert held.stop() == 0
    assert gone(below)
    assert '"Stopped"' in held.log.read_text()  # it drained, and was not just killed
    assert not list(held.place().folder.glob("*.sock"))


def test_the_holder_carries_nothing_but_the_standard_library() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, appliance.holder.__main__; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    ours = {name for name in done.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in ours if not name.startswith("appliance.holder")} == {"__main__", "appliance"}
    assert "asyncio" not in done.stdout.split()
