"""A child that misbehaves in one chosen way: `python standin.py MODE --fd N`.

Only for what a real engine must never do. It speaks the wire well enough to get as far as the misdeed.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

from appliance import wire

mode = sys.argv[1]
sock = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))


def send(message: wire.FromEngine) -> None:
    sock.sendall(wire.encode(message))


def exactly(count: int) -> bytes:
    data = b""
    while len(data) < count:
        got = sock.recv(count - len(data))
        if not got:
            os._exit(wire.EXIT_PARENT_GONE)
        data += got
    return data


def receive() -> wire.ToEngine:
    (size,) = wire.HEADER.unpack(exactly(wire.HEADER.size))
    return wire.decode_to_engine(exactly(size))


def beat(stage: wire.Stage = "idle", waiting: int = 0) -> None:
    def run() -> None:
        while True:
            send(wire.Beat(stage=stage, stage_s=0.0, progress=1, waiting=waiting))
            time.sleep(0.1)

    threading.Thread(target=run, daemon=True).start()


def loaded(tokens: int = 1) -> None:
    """All that a good engine does until it is ready. tokens: its answer to the probe; -1 for never."""
    send(wire.Hello(os.getpid()))
    assert isinstance(receive(), wire.Load)
    send(wire.Loaded("standin", 0.0, 1, 1, 4096, True, None, "cpu"))
    assert isinstance(receive(), wire.Configure)
    probe = receive()
    assert isinstance(probe, wire.Submit)
    send(wire.Accepted(probe.rid, 1))
    if tokens >= 0:
        send(wire.Step([wire.Row(probe.rid, "", tokens, "stop")]))


def forever() -> None:
    while True:
        time.sleep(60)


if mode.startswith("exits"):
    print("first words\nlast words", file=sys.stderr, flush=True)
    os._exit(int(mode.removeprefix("exits")))
elif mode == "aborts":
    print("[METAL] Command buffer execution failed: Insufficient Memory", file=sys.stderr, flush=True)
    os.abort()
elif mode == "floods-stderr":
    sys.stderr.write("x" * 1_000_000 + "\nthe end\n")
    sys.stderr.flush()
    os._exit(3)
elif mode == "silent":
    send(wire.Hello(os.getpid()))
    forever()
elif mode == "stranger":
    send(wire.Hello(os.getpid(), protocol=99))
    forever()
elif mode == "stuck":  # its beat goes on, its model does not
    send(wire.Hello(os.getpid()))
    beat("load")
    forever()
elif mode == "garbage":
    send(wire.Hello(os.getpid()))
    sock.sendall(wire.HEADER.pack(4) + b"\xff\xff\xff\xff")
    forever()
elif mode == "huge":
    sock.sendall(wire.HEADER.pack(wire.MAX_FRAME + 1))
    forever()
elif mode == "half":
    sock.sendall(wire.encode(wire.Hello(os.getpid()))[:-2])
    os._exit(0)
elif mode == "hangs-up":  # closes its socket and lives on
    send(wire.Hello(os.getpid()))
    sock.close()
    forever()
elif mode == "mute":
    loaded(tokens=0)
    beat()
    forever()
elif mode == "thinks":
    loaded(tokens=-1)
    beat()
    forever()
elif mode == "deaf":  # ready, then never reads again
    loaded()
    beat()
    forever()
elif mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loaded()
    beat()
    forever()
elif mode == "leaves-a-child":  # which holds the socket, the pipe and the process group
    loaded()
    if os.fork() == 0:
        forever()
    os._exit(4)
elif mode == "dies-asked":  # at the first request, before it accepts
    loaded()
    beat()
    receive()
    os._exit(5)
elif mode == "one":  # begins the first request and no other, like an engine without memory for two
    loaded()
    beat(waiting=1)
    first = receive()
    assert isinstance(first, wire.Submit)
    send(wire.Accepted(first.rid, 1))
    forever()
elif mode == "late":  # accepts each request and ends it at once, but only after SIGUSR1
    go = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: go.set())
    loaded()
    beat()
    while not go.is_set():
        time.sleep(0.01)
    while True:
        message = receive()
        if isinstance(message, wire.Submit):
            send(wire.Accepted(message.rid, 1))
            send(wire.Step([wire.Row(message.rid, "late", 1, "stop")]))
        elif isinstance(message, wire.Shutdown):
            os._exit(wire.EXIT_OK)
elif mode == "fails":  # accepts each request and ends it with an error, whose code is the first message
    loaded()
    beat()
    while True:
        message = receive()
        if isinstance(message, wire.Submit):
            code = str(message.messages[0]["content"]) or None if message.messages else None
            send(wire.Accepted(message.rid, 1))
            send(wire.Step([wire.Row(message.rid, "", 1, "error", "no more", code=code)]))
        elif isinstance(message, wire.Shutdown):
            os._exit(wire.EXIT_OK)
else:
    sys.exit(f"no mode {mode!r}")
