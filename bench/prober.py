"""Asks /healthz again and again, in a process of its own: the delays are the server's, not a busy client's.

Prints the seconds of each answer as one JSON list when its standard input is closed.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

EVERY_S = 0.02
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def main(port: int) -> None:
    waits = []
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(REQUEST)
            answer = b""
            while data := sock.recv(4096):
                answer += data
        waits.append(time.perf_counter() - start)
        if b'"ok"' not in answer:
            raise RuntimeError(f"/healthz said {answer!r}")
    print(json.dumps(waits))


if __name__ == "__main__":
    main(int(sys.argv[1]))
