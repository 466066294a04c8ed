"""A fleet of made-up machines: one real server that plays all of them, and some that are not there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.fleet import inventory, poll
from appliance.fleet.inventory import InventoryError, Machine
from appliance.fleet.poll import Answer
from appliance.fleet.verdict import verdict
from tests.e2e.machine import free_port

pytestmark = pytest.mark.anyio
LMX = [sys.executable, "-m", "appliance.cli"]
NEW, OLD = "a" * 40, "b" * 40


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def status(
    commit: str | None = NEW, summary: str = "Ready", digest: str = "d" * 64, **conditions: tuple[str, str]
) -> dict[str, Any]:
    held = {"Ready": ("True", "answers"), "Synced": ("True", "runs"), **conditions}
    return {
        "summary": summary,
        "generation": 7,
        "digest": digest,
        "source": {"kind": "git" if commit else "file", "revision": commit},
        "active": {"desired": "daily", "actual": "daily"},
        "conditions": [
            {"type": kind, "status": value, "reason": "R", "message": words}
            for kind, (value, words) in held.items()
        ],
    }


@asynccontextmanager
async def serving(answer: Callable[[str], bytes | None]) -> AsyncIterator[tuple[int, list[int]]]:
    """A server whose `answer` gives the bytes for /NAME/status; None: it keeps silent. Its port, and how many
    requests were open at once."""
    open_, most = 0, [0]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                open_ += 1
                most[0] = max(most[0], open_)
                await asyncio.sleep(0)  # others may come in meanwhile
                body = answer(head.split(b" ")[1].decode().split("/")[1])
                if body is None:
                    await reader.read()  # until the client gives up
                    return
                writer.write(body)
                await writer.drain()
                open_ -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone, as it may
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], most


def http(body: bytes, code: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        code,
        len(body),
        body,
    )


async def test_two_hundred_machines_in_every_condition() -> None:
    kinds: dict[int, Callable[[], bytes | None]] = {
        0: lambda: None,
        1: lambda: http(b"not json"),
        2: lambda: http(b'{"error":{}}', 401),
        3: lambda: http(b"{}", 500),
        4: lambda: http(json.dumps(status(OLD)).encode()),
        5: lambda: http(json.dumps(status(NEW, "Reconciling", Synced=("False", "loads"))).encode()),
        6: lambda: http(json.dumps(status(NEW, "Degraded", Degraded=("True", "hot"))).encode()),
        7: lambda: http(json.dumps(status(NEW, "NotReady", Ready=("False", "no room"))).encode()),
        8: lambda: http(b"x" * (poll.MOST + 1)),
    }

    def answer(name: str) -> bytes | None:
        return kinds.get(int(name), lambda: http(json.dumps(status()).encode()))()

    async with serving(answer) as (port, most):
        machines = [Machine(f"m{n}", f"http://127.0.0.1:{port}/{n}") for n in range(200)]
        machines.append(Machine("gone", f"http://127.0.0.1:{free_port()}"))
        answers = await poll.poll(machines, at_once=16, within=3.0)
    assert most[0] <= 16
    assert [answer.machine for answer in answers] == machines
    found = verdict(answers)
    assert found.wanted == NEW
    assert found.counts == {"silent": 6, "down": 1, "lagging": 2, "degraded": 1, "fine": 191}
    why = {row.name: (row.state, row.why) for row in found.rows}
    assert why["m0"] == ("silent", "no answer within 3 s")
    assert why["m1"][1] == "what answers there is no LMX: not JSON"
    assert "wants a key" in why["m2"][1]
    assert why["m3"] == ("silent", "HTTP 500")
    assert why["m4"] == ("lagging", f"it has {OLD[:12]}, not {NEW[:12]}")
    assert why["m5"] == ("lagging", "loads")
    assert why["m6"] == ("degraded", "hot")
    assert why["m7"] == ("down", "no room")
    assert f"over {poll.MOST} bytes" in why["m8"][1]
    assert why["gone"][0] == "silent"
    assert [row.state for row in found.rows] == sorted(
        (row.state for row in found.rows), key=("silent", "down", "lagging", "degraded", "fine").index
    )


def answers(*documents: dict[str, Any] | None) -> list[Answer]:
    return [
        Answer(Machine(f"m{n}", "http://x"), document, "" if document else "silence", 0.0)
        for n, document in enumerate(documents)
    ]


def test_machines_with_files_of_their_own_need_not_agree() -> None:
    found = verdict(answers(status(None, digest="1" * 64), status(None, digest="2" * 64)))
    assert found.fine
    assert found.wanted is None


def test_what_is_asked_for_counts_for_all() -> None:
    documents = answers(status(None, digest="1" * 64), status(None, digest="2" * 64), status(NEW))
    found = verdict(documents, "11111111")
    assert {row.name: row.state for row in found.rows} == {"m0": "fine", "m1": "lagging", "m2": "lagging"}


def test_of_nothing_nothing_is_wanted() -> None:
    found = verdict(answers(None, None))
    assert (found.wanted, found.counts["silent"], found.fine) == (None, 2, False)


@pytest.mark.parametrize("odd", [{}, {"source": 3}, {"conditions": {}}, {"conditions": [1]}, {"active": []}])
def test_a_document_of_another_version_is_no_crash(odd: dict[str, Any]) -> None:
    (row,) = verdict(answers({"summary": "Ready", **odd})).rows
    assert row.state == "down"


def read(folder: Path, text: str, **environment: str) -> list[Machine]:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return inventory.read(path, environment)


def test_an_inventory_names_machines_and_where_their_keys_are(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    (tmp_path / "key").chmod(0o600)
    text = """
machines:
  one: http://one.local:1234/
  two: {url: "https://two.local", key: {env: TWO}}
  three: {url: "http://[::1]:99", key: {file: key}}
key: {env: ALL}
"""
    found = read(tmp_path, text, ALL="usual", TWO="own")
    assert [(one.name, one.url, one.key) for one in found] == [
        ("one", "http://one.local:1234", "usual"),
        ("two", "https://two.local", "own"),
        ("three", "http://[::1]:99", "from-file"),
    ]
    assert "usual" not in repr(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("3", "a map with the key"),
        ("machines: {}", "names to addresses"),
        ("machines: {a: ftp://x}", "write an address like"),
        ("machines: {a: 'http://u:hidden@x'}", "no user"),
        ("machines: {a: 'http://x/?key=hidden'}", "no user"),
        ("machines: {a: {url: http://x, kee: 1}}", "unknown key 'kee'"),
        ("machines: {a: [x]}", "with `url`"),
        ("machines: {3: http://x}", "name is text"),
        ("machines: {a: http://x}\nkey: hidden", "has no place here"),
        ("machines: {a: http://x}\nkey: {env: NONE}", "no NONE"),
        ("machines: {a: http://x}\nkey: {file: none}", "cannot be read"),
        ("machines: {a: http://x}\nkey: {file: open}", "chmod 600"),
        ("machins: {a: http://x}", "unknown key 'machins'"),
    ],
)
def test_an_inventory_that_is_wrong_is_told_where_and_without_secrets(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "open").write_text("hidden", encoding="utf-8")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(InventoryError, match=words) as caught:
        read(tmp_path, text)
    assert "hidden" not in str(caught.value)


async def test_the_verb_tells_who_needs_somebody_and_says_so_in_its_exit_status(tmp_path: Path) -> None:
    documents = {"1": status(), "2": status(OLD), "3": status()}
    async with serving(lambda name: http(json.dumps(documents[name]).encode())) as (port, _):
        machines = {f"m{n}": f"http://127.0.0.1:{port}/{n}" for n in documents}
        (tmp_path / "fleet.yaml").write_text(json.dumps({"machines": machines}), encoding="utf-8")

        async def run(*words: str) -> tuple[int, str]:
            done = await asyncio.to_thread(
                subprocess.run,
                [*LMX, "fleet", "status", *words],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stderr == ""
            return done.returncode, done.stdout

        code, text = await run()
        assert code == 2
        assert "m2" in text
        assert "m1" not in text
        assert f"3 machines on {NEW[:12]}: 2 fine, 1 lagging" in text
        code, text = await run("-o", "json")
        assert (code, json.loads(text)["counts"]["fine"]) == (2, 2)
        documents["2"] = status()
        assert (await run())[0] == 0


def test_without_an_inventory_it_says_how_to_write_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*LMX, "fleet", "status"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "machines: {" in done.stderr


async def test_the_page_tells_of_all_machines_and_keeps_looking(tmp_path: Path) -> None:
    documents = {str(n): status() for n in range(5)}
    documents["3"] = status(NEW, "NotReady", Ready=("False", "<b>no room</b>"))
    port = free_port()
    async with serving(lambda name: http(json.dumps(documents[name]).encode())) as (machine_port, _):
        machines = {f"m{n}": f"http://127.0.0.1:{machine_port}/{n}" for n in documents}
        (tmp_path / "fleet.yaml").write_text(json.dumps({"machines": machines}), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *LMX, "fleet", "serve", "--port", str(port), "--every", "1",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                page = await until(client, "4 of 5 fine")
                assert "1 answer, but their active model does not" in page.text
                assert "&lt;b&gt;no room&lt;/b&gt;" in page.text
                assert f'href="http://127.0.0.1:{machine_port}/3/"' in page.text
                assert "default-src 'none'" in page.headers["content-security-policy"]
                assert (await client.get("/dashboard.css")).status_code == 200
                assert (await client.get("/status")).json()["counts"]["down"] == 1
                assert (await client.get("/", headers={"host": "evil.example"})).status_code == 403
                assert (await client.post("/")).status_code == 405
                documents["3"] = status()
                await until(client, "5 of 5 fine")
        finally:
            process.terminate()
            out, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (0, b"")
    assert errors.decode().startswith(f"lmx: http://127.0.0.1:{port}/ tells of fleet.yaml")


async def until(client: httpx.AsyncClient, text: str) -> httpx.Response:
    """The page, once it says so."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await client.get("/")
                if text in answer.text:
                    return answer
            except httpx.TransportError:
                pass  # it is not up yet
            await asyncio.sleep(0.05)
