"""The process: it never outlives its parent, and each way to end has its own exit status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import wire
from tests.engine.client import ROOT, Engine


def test_shutdown_ends_a_loaded_engine_with_status_zero(folder: Path, start: Callable[[], Engine]) -> None:
    engine = start()
    engine.load(folder)
    running = engine.submit("dog", max_tokens=2000, ignore_eos=True)
    engine.until(lambda: bool(running.rows))
    engine.send(wire.Shutdown())
    assert engine.drain() == wire.EXIT_OK
    assert not running.ended


def test_shutdown_before_a_load_ends_with_status_zero(start: Callable[[], Engine]) -> None:
    engine = start()
    engine.expect(wire.Hello)
    engine.send(wire.Shutdown())
    assert engine.drain() == wire.EXIT_OK


@pytest.mark.parametrize("busy", [False, True])
def test_it_goes_when_the_parent_goes(folder: Path, start: Callable[[], Engine], busy: bool) -> None:
    engine = start()
    engine.load(folder)
    if busy:
        running = engine.submit("dog", max_tokens=2000, ignore_eos=True)
        engine.until(lambda: bool(running.rows))
    engine.sock.close()
    assert engine.process.wait(timeout=5) == wire.EXIT_PARENT_GONE


def test_it_is_killed_with_its_parent_even_while_the_socket_stays_open(tmp_path: Path) -> None:
    """Linux only: the socket is held open by this test, so that only the kernel can end the engine."""
    if sys.platform != "linux":
        pytest.skip("the death signal is a Linux feature")
    ours, theirs = socket.socketpair()
    code = (
        "import subprocess, sys, time\n"
        f"engine = subprocess.Popen([sys.executable, '-m', 'appliance.engine', '--fd', '{theirs.fileno()}'],"
        f" pass_fds=[{theirs.fileno()}], stderr=subprocess.DEVNULL)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.PIPE
    )
    try:
        ours.settimeout(20)
        (length,) = wire.HEADER.unpack(ours.recv(4, socket.MSG_WAITALL))
        hello = wire.decode_from_engine(ours.recv(length, socket.MSG_WAITALL))
        assert isinstance(hello, wire.Hello)
        watch = os.pidfd_open(hello.pid)
        parent.kill()
        import select

        assert select.select([watch], [], [], 10)[0], "the engine outlived its parent"
        os.close(watch)
    finally:
        parent.kill()
        parent.communicate()
        ours.close()
        theirs.close()


def test_a_terminal_interrupt_is_left_to_the_parent(folder: Path, start: Callable[[], Engine]) -> None:
    engine = start()
    engine.load(folder)
    engine.process.send_signal(signal.SIGINT)
    assert engine.ask("dog", max_tokens=3, ignore_eos=True).finish == "length"


@pytest.mark.parametrize(
    "frame",
    [
        b"\x03\x00\x00\x00abc",
        wire.HEADER.pack(wire.MAX_FRAME + 1),
        wire.encode(wire.Hello(1)),  # a message, but not for an engine
        b"\x00\x00\x00\x00",
    ],
    ids=["garbage", "too long", "wrong way", "empty"],
)
def test_a_frame_that_is_no_message_ends_it_with_a_status_of_its_own(
    start: Callable[[], Engine], frame: bytes, tmp_path: Path
) -> None:
    engine = start()
    engine.expect(wire.Hello)
    engine.sock.sendall(frame)
    assert engine.drain() == wire.EXIT_PROTOCOL
    assert "ERROR" in (tmp_path / "engine-0.log").read_text()


def test_a_second_load_is_out_of_order(folder: Path, start: Callable[[], Engine]) -> None:
    engine = start()
    engine.load(folder)
    engine.send(wire.Load(model="another", path=str(folder)))
    assert engine.drain() == wire.EXIT_PROTOCOL


def test_a_request_before_the_model_is_loaded_is_refused(start: Callable[[], Engine]) -> None:
    engine = start()
    refused = engine.ask("dog").refused
    assert refused is not None
    assert refused.code == "no-model-loaded"


def test_beats_come_from_the_first_moment_and_progress_grows_with_work(
    folder: Path, start: Callable[[], Engine]
) -> None:
    engine = start()
    engine.until(lambda: bool(engine.beats))
    assert engine.beats[0].stage == "start"
    engine.load(folder)
    engine.send(wire.Configure(context=2048))
    engine.beats.clear()
    engine.until(lambda: any(beat.stage == "idle" for beat in engine.beats))
    before = engine.beats[-1]
    reply = engine.ask([9] * 40, max_tokens=60, ignore_eos=True)
    engine.beats.clear()
    engine.until(lambda: any(beat.stage == "idle" for beat in engine.beats))
    after = engine.beats[-1]
    assert reply.finish == "length"
    assert after.progress >= before.progress + 60
    assert after.output_tokens - before.output_tokens == 60
    assert after.prompt_tokens - before.prompt_tokens == 40
    assert after.active_bytes > 0
    assert after.peak_bytes >= after.active_bytes
    assert (after.rows, after.waiting) == (0, 0)


def test_a_parent_that_reads_late_loses_nothing_and_is_still_heard(
    folder: Path, start: Callable[[], Engine]
) -> None:
    """More output than the socket holds: the engine waits, while its reader still takes a Cancel."""
    engine = start()
    engine.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    engine.load(folder)
    engine.send(wire.Configure(context=2048, concurrency=8))
    replies = [engine.submit([9 + n] * 4, max_tokens=400, ignore_eos=True) for n in range(8)]
    waiting = engine.submit([7] * 4, max_tokens=400)
    engine.send(wire.Cancel(waiting.rid))
    engine.finish(waiting, *replies)
    assert waiting.finish == "cancelled"
    assert {reply.rows[-1].tokens for reply in replies} == {400}


def test_a_wrong_command_line_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance.engine"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--fd" in done.stderr
