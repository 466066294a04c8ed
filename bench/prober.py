"""Asks one path again and again, in a process of its own: the delays are the server's, not a busy client's.

    python -m bench.prober PORT [PATH]

Prints the seconds of each answer as one JSON list when its standard input is closed.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

EVERY_S = 0.02


def main(port: int, path: str = "/healthz") -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    waits = []
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(request)
            answer = b""
            while data := sock.recv(4096):
                answer += data
        waits.append(time.perf_counter() - start)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"{path} said {answer[:400]!r}")
    print(json.dumps(waits))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
