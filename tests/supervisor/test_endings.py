"""What is said about a process that is gone."""

from __future__ import annotations

import signal

import pytest

from appliance import wire
from appliance.supervisor.endings import ended, last_words


@pytest.mark.parametrize(
    ("status", "tail", "kernel", "reason", "words"),
    [
        (1, b"boom\n", False, "exit", "status 1 in stage decode: boom"),
        (0, b"", False, "exit", "nobody asked for"),
        (wire.EXIT_CRASHED, b"", False, "exit", "its own loop"),
        (1, b"MemoryError\n", False, "oom", "MemoryError"),
        (-signal.SIGSEGV, b"", False, "crash", "SIGSEGV"),
        (
            -signal.SIGKILL,
            b"",
            False,
            "crash",
            "SIGKILL in stage decode: killed from outside, or by the system",
        ),
        (-signal.SIGKILL, b"", True, "oom", "memory had run out"),
        (-signal.SIGABRT, b"", False, "crash", "gave up by itself"),
        (-signal.SIGABRT, b"Insufficient Memory (00000008)\n", False, "oom", "out of memory"),
        (-200, b"", False, "crash", "signal 200"),
    ],
)
def test_exit_crash_and_memory_are_told_apart(
    status: int, tail: bytes, kernel: bool, reason: str, words: str
) -> None:
    failure = ended(status, tail, "decode", kernel_killed=kernel)
    assert failure.reason == reason
    assert words in failure.message
    assert not failure.permanent


def test_the_last_words_fit_on_a_line() -> None:
    assert last_words(b"one\n\ntwo\nthree\nfour\n") == "two | three | four"
    assert len(last_words(b"x" * 10_000)) == 500
    assert last_words(b"\xff\n") == "�"


def test_what_an_engine_logs_while_all_is_well_is_no_reason_for_its_end() -> None:
    assert last_words(b"INFO a step costs 1 ms\nDEBUG x\n") == ""
    assert last_words(b"ERROR no memory\nINFO a step costs 1 ms\n") == "ERROR no memory"
    assert ended(-9, b"INFO a step costs 1 ms\n", "decode").message.endswith("by the system for memory")
