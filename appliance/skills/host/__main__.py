"""`python -m appliance.skills.host --fd N`: the process of one skill, holding one end of a socket pair.

Its working folder is empty and its own, its environment clean; both are the parent's doing.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import sys
from typing import Any, BinaryIO, cast

from appliance import lifeline
from appliance.skills import messages
from appliance.skills.messages import Failed, Setup

FILES = 256  # open files and sockets
WRITTEN = 256 * 1024**2  # bytes of any one file


def main() -> int:
    parent = os.getppid()
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    sock = socket.socket(fileno=parser.parse_args().fd)
    sock.set_inheritable(False)  # what the skill starts must not speak for it
    if not lifeline.die_with_parent(parent):
        return 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)  # it led to this module, and is no business of the skill's
    os.umask(0o077)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, FILES)
    reader = cast(BinaryIO, sock.makefile("rb"))
    line = reader.readline(messages.LINE)
    if not line:
        return 1  # the parent is gone
    setup = messages.decode_to_host(line)
    if not isinstance(setup, Setup):
        return 1
    if setup.python is not None:
        _lower(resource.RLIMIT_FSIZE, WRITTEN)
        return _python(setup, sock, reader)
    from appliance.skills.host import mcp_server

    return mcp_server.run(setup, sock)


def _python(setup: Setup, sock: socket.socket, reader: BinaryIO) -> int:
    from appliance.skills.host import python

    try:
        function = python.Function(setup)
    except python.Unusable as error:
        sock.sendall(messages.encode(Failed(messages.printable(str(error)))))
        return 1
    sock.sendall(messages.encode(messages.Ready([function.tool])))
    while line := reader.readline(messages.LINE):
        call = messages.decode_to_host(line)
        if isinstance(call, messages.Call):
            sock.sendall(messages.encode(function.run(call)))
    return 0


def _lower(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _exit(status: Any) -> None:
    """Without waiting for threads that a skill has left behind."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _exit(main())
