"""`lmx` in an empty folder, and a stand-in appliance that its lmx.yaml points at."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.standin import Appliance, Lmx, Reply, status_document


@pytest.fixture
def lmx(tmp_path: Path) -> Lmx:
    return Lmx(tmp_path)


@pytest.fixture
def appliance(lmx: Lmx) -> Iterator[Appliance]:
    """Runs until the test ends; lmx.yaml beside it says where."""
    stand_in = Appliance()
    stand_in.on("GET /status", status_document())
    stand_in.on("GET /healthz", {"status": "ok"})
    stand_in.on("GET /admin/config", {"spec": {}})

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            route = f"{self.command} {self.path}"
            stand_in.asked.append((route, body, {k.lower(): v for k, v in self.headers.items()}))
            handler = stand_in.answers.get(route)
            missing = {"error": {"message": f"there is nothing at {self.path}", "code": "not_found"}}
            reply = handler(body) if handler else Reply(missing, 404)
            if isinstance(reply.body, list) and reply.status == 200:
                self.stream(reply)
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def stream(self, reply: Reply) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in reply.body:
                data = event.encode()
                self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            if not reply.breaks:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: pytest shows what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    port = server.server_address[1]
    stand_in.url = f"http://127.0.0.1:{port}"
    (lmx.folder / "lmx.yaml").write_text(
        "version: 1\nactive: demo\nmodels:\n  demo: {source: builtin:lmx-demo}\n"
        f"server: {{host: 0.0.0.0, port: {port}}}\n"
    )
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()
