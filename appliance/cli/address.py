"""Where the appliance is that a verb speaks to: --url, or host and port in the file."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.cli import key
from appliance.cli.client import Appliance
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE
from appliance.cli.spec_file import content, parse
from appliance.cli.terminal import note

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to listen on that none can be reached at


def connect(file: Path, url: str | None) -> Appliance:
    start = "lmx up" if file == DEFAULT_FILE else f"lmx up -f {file}"
    shown = key.of_environment()
    if url:
        return Appliance(normal(url), start, shown)
    address, own = of_file(file)
    return Appliance(address, start, shown or own)


def normal(url: str) -> str:
    """`studio.local:1234` and a trailing slash are taken too."""
    return (url if "://" in url else f"http://{url}").rstrip("/")


def of_file(file: Path) -> tuple[str, str | None]:
    """The address in `file`, and a key of those it names, if there is one to read.

    A broken file may still name the address: the appliance runs on its last good spec.
    """
    from reconciler.loader import SpecError

    if not file.exists():
        raise CliError(
            f"there is no {file} here that says where the appliance is. Name the file with -f FILE, "
            "or the appliance with --url http://HOST:PORT."
        )
    data = content(file)
    try:
        server = parse(file, data).spec.server
        return reachable(server.host, server.port), key.of_spec(server.api_keys, file.absolute().parent)
    except SpecError as error:
        address = reachable(*_as_written(data))
        note(f"{error.problems[0]}; speaking to {address} all the same")
        return address, None


def reachable(host: str, port: int) -> str:
    host = host.strip("[]")
    host = EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _as_written(data: bytes) -> tuple[str, int]:
    """server.host and server.port of a file with errors elsewhere; defaults for what is missing or wrong."""
    from reconciler.loader import environment, layers, tree
    from reconciler.spec import Server

    default = Server()
    try:
        found, faults = layers.trees(layers.unpack(data), Path("lmx.yaml"))
    except tree.Unreadable:
        return default.host, default.port
    server = environment.substitute(layers.merged(found), os.environ, faults).get("server")
    server = server if isinstance(server, dict) else {}
    host, port = server.get("host"), str(server.get("port"))
    return (
        str(host) if isinstance(host, str) and host else default.host,
        int(port) if port.isascii() and port.isdecimal() else default.port,
    )
