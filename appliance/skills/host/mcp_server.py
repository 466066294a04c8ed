"""An MCP server as a skill: connected through the official SDK, listed, called, and connected anew.

A server that is a command runs as a child of this process; one with an address runs somewhere else. Both
are asked for their tools again when they say that these have changed, and every `LOOK_S`, which is also how
a server is found out that has stopped answering.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import psutil
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from appliance.skills import messages
from appliance.skills.host import leash
from appliance.skills.host.contents import as_text
from appliance.skills.host.offered import Offered, offered
from appliance.skills.messages import Call, Cancel, Failed, Lost, Ready, Result, Setup, printable
from reconciler.backoff import delay

CONNECT_S = 20.0
LOOK_S = 30.0
MEMORY_LOOK_S = 0.5
PAGES = 100  # of a list of tools
LONG = 1000

log = logging.getLogger("lmx.skills.mcp")


def run(setup: Setup, sock: socket.socket) -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    for name in ("httpx2", "mcp"):  # addresses and contents are nobody's business here
        logging.getLogger(name).setLevel(logging.ERROR)
    return asyncio.run(_Host(setup).serve(sock))


class _Gone(Exception):
    """The connection is of no more use, and why."""


class _Host:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._client: Client | None = None
        self._offered = Offered({}, {}, {})
        self._told: Ready | None = None
        self._writer: asyncio.StreamWriter
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._broken: asyncio.Future[str]
        self._status: int | None = None  # of the last HTTP answer that was an error

    async def serve(self, sock: socket.socket) -> int:
        """Until the parent closes the socket."""
        sock.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=sock, limit=messages.LINE)
        command = self._setup.command
        if command is not None and _program(command[0], self._setup) is None:
            self._say(Failed(f"there is no program {command[0]!r} here"))
            await self._writer.drain()
            return 1
        connecting = asyncio.create_task(self._stay_connected())
        try:
            while line := await reader.readline():
                match messages.decode_to_host(line):
                    case Call() as call:
                        task = asyncio.create_task(self._answer(call))
                        self._calls[call.number] = task
                    case Cancel(number=number):
                        if number in self._calls:
                            self._calls[number].cancel()
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        return 0

    def _say(self, message: messages.FromHost) -> None:
        self._writer.write(messages.encode(message))

    # --- the connection ----------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._connection()
            except Exception as error:  # noqa: BLE001 - whatever a server does, the next try comes
                bad = f" (HTTP {self._status})" if self._status is not None else ""
                self._break(_reason(error) + bad)
                failures = 1 if time.monotonic() - began > 2 * LOOK_S else failures + 1
            await asyncio.sleep(delay(self._setup.name, failures))

    async def _connection(self) -> None:
        """Connect, tell of the tools, and stay until something is wrong. Raises what it is."""
        self._broken, self._status = asyncio.get_running_loop().create_future(), None
        self._changed.clear()
        async with contextlib.AsyncExitStack() as held:
            async with asyncio.timeout(CONNECT_S):
                transport = self._transport()
                client = await held.enter_async_context(
                    Client(transport, message_handler=self._hear, cache=None, read_timeout_seconds=CONNECT_S)
                )
            listening = asyncio.create_task(self._listen(client))
            held.callback(listening.cancel)
            if self._setup.command is not None:
                watching = asyncio.create_task(self._watch_memory())
                held.callback(watching.cancel)
            while True:
                self._changed.clear()
                await self._look(client)
                self._client = client
                waits = asyncio.ensure_future(self._changed.wait())
                ends: set[asyncio.Future[Any]] = {waits, self._broken}
                await asyncio.wait(ends, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                waits.cancel()
                if self._broken.done():
                    raise _Gone(self._broken.result())

    def _transport(self) -> Any:
        setup = self._setup
        if setup.url is not None:
            return self._http(setup.url, setup.token)
        command = setup.command or []
        program = _program(command[0], setup) or command[0]
        # Python's -I: nothing of the environment or the folder gets into the few lines before the exec.
        own = ["-I", str(Path(leash.__file__).resolve()), str(os.getpid()), program, *command[1:]]
        server = StdioServerParameters(command=sys.executable, args=own, env=setup.env, cwd=setup.folder)
        return self._noticed(stdio_client(server))

    @contextlib.asynccontextmanager
    async def _http(self, url: str, token: str | None) -> AsyncIterator[Any]:
        async def note(response: httpx2.Response) -> None:
            self._status = response.status_code if response.status_code >= 400 else None

        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        timeout = httpx2.Timeout(CONNECT_S, read=3600.0)  # calls have a time limit of their own
        hooks: Any = {"response": [note]}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False, event_hooks=hooks) as http,
            streamable_http_client(url, http_client=http) as streams,
        ):
            yield streams

    @contextlib.asynccontextmanager
    async def _noticed(self, transport: Any) -> AsyncIterator[Any]:
        """The same, and its end is noticed at once, not by the next call."""
        send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        async with transport as (reads, writes), anyio.create_task_group() as tasks:

            async def pass_on() -> None:
                async with send:
                    async for message in reads:
                        await send.send(message)
                self._break("the server ended")

            tasks.start_soon(pass_on)
            yield receive, writes
            tasks.cancel_scope.cancel()
            receive.close()

    def _break(self, why: str) -> None:
        """This connection is of no more use. The first reason counts, and the parent hears it at once."""
        if not self._broken.done():
            self._client = None
            self._broken.set_result(printable(why)[:LONG])
            self._say(Lost(self._broken.result()))

    async def _look(self, client: Client) -> None:
        """What it offers now. The parent is told where that is news."""
        found: list[types.Tool] = []
        cursor: str | None = None
        async with asyncio.timeout(CONNECT_S):
            for _ in range(PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    break
        self._offered = offered(found, self._setup.tools)
        ready = Ready(list(self._offered.tools.values()), self._offered.left_out)
        if self._client is None or ready != self._told:
            self._told = ready
            self._say(ready)

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._changed.set()

    async def _listen(self, client: Client) -> None:
        """Servers of the newer protocol tell of changes to those who ask."""
        try:
            async with client.listen(tools_list_changed=True) as subscription:
                async for _ in subscription:
                    self._changed.set()
        except (ListenNotSupportedError, SubscriptionLost, MCPError, TimeoutError):
            return  # an older one tells unasked, and every one is asked again in a while

    async def _watch_memory(self) -> None:
        own = psutil.Process()
        while True:
            used = 0
            for process in own.children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    used += process.memory_info().rss
            if used > self._setup.memory:
                self._break(f"the server used {used >> 20} MiB of memory and was ended")
                return
            await asyncio.sleep(MEMORY_LOOK_S)

    # --- calls -------------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> None:
        try:
            result = await self._result(call)
        except asyncio.CancelledError:
            result = Result(call.number, "cancelled", "")
        finally:
            self._calls.pop(call.number, None)
        self._say(result)

    async def _result(self, call: Call) -> Result:
        client = self._client
        if client is None:
            return Result(call.number, "unavailable", "the server of this tool cannot be reached")
        if call.tool not in self._offered.tools:
            return Result(call.number, "unavailable", "the server offers this tool no more")
        wrong = self._offered.mistakes(call.tool, call.arguments)
        if wrong:
            return Result(call.number, "invalid_arguments", printable(wrong)[:LONG])
        try:
            found = await client.call_tool(
                call.tool, call.arguments, read_timeout_seconds=self._setup.seconds + CONNECT_S
            )
        except MCPError as error:
            if self._broken.done():
                return Result(call.number, "crashed", self._broken.result())
            return Result(call.number, "error", printable(error.message)[:LONG])
        except Exception as error:  # noqa: BLE001 - the transport's own, of several libraries
            self._break(_reason(error))
            return Result(call.number, "unavailable", self._broken.result())
        text = printable(as_text(found))
        size = len(text.encode())
        if size > self._setup.result:
            text = f"the result has {size} bytes, and {self._setup.result} is the most; ask for less"
            return Result(call.number, "too_large", text)
        return Result(call.number, "refused" if found.is_error else "ok", text)


def _program(name: str, setup: Setup) -> str | None:
    """Where a command lies: by path from the folder of lmx.yaml, else as PATH says."""
    if "/" in name:
        path = os.path.normpath(os.path.join(setup.folder, os.path.expanduser(name)))
        return path if os.access(path, os.X_OK) else None
    return shutil.which(name)


def _reason(error: BaseException) -> str:
    """In words: the first of a group that says something."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"the server did not answer within {CONNECT_S:g} s"
    return str(error) or type(error).__name__
