"""What is watched while chaos happens: the parent's size, and whether /healthz always answers.

`python -m tests.chaos.watch PORT` asks /healthz until its standard input ends, from a process of its own,
so that the delays are the server's. It prints one JSON list: [when, seconds, what was wrong or null] each.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass

import psutil

EVERY_S = 0.1
PATIENCE_S = 15.0
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def ask(port: int) -> str | None:
    """None when it answered as it should."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as sock:
            sock.sendall(REQUEST)
            answer = b""
            while data := sock.recv(4096):
                answer += data
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None if b'"ok"' in answer else answer[-200:].decode("latin-1")


def main(port: int) -> None:
    found = []
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        begin = time.monotonic()
        wrong = ask(port)
        found.append([begin, time.monotonic() - begin, wrong])
    print(json.dumps(found))


@dataclass(frozen=True)
class Sample:
    """Of the parent. at: monotonic seconds. uss: bytes that are its alone."""

    at: float
    pid: int
    uss: int
    handles: int
    threads: int
    engines: int


class Sampler:
    """Looks at the parent twice a second, in a thread of its own."""

    def __init__(self, every: float = 0.5) -> None:
        self.samples: list[Sample] = []
        self.pid = 0
        self._every, self._stop = every, threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                seen = sample(self.pid)
            except psutil.Error:
                continue  # between two processes: the next look finds the new one
            if seen.uss:  # a process on its way out has none
                self.samples.append(seen)


def sample(pid: int) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(
            time.monotonic(),
            pid,
            process.memory_full_info().uss,
            process.num_fds(),
            process.num_threads(),
            len(process.children()),
        )


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares; 0 for fewer than two points."""
    count = len(points)
    if count < 2:
        return 0.0
    mx, my = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    wide = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / wide if wide else 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]))
