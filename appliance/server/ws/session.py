"""What is said on one WebSocket: chats by their ids, cancels and pings.

    {"id": "a", "messages": [...], ...}   a body of /v1/chat/completions, with an id of the client's choice
    {"type": "cancel", "id": "a"}
    {"type": "ping"}

    chunks of Chat Completions, their `id` that of the request
    {"type": "done", "id": "a"}                        all of it has been sent, or
    {"type": "cancelled", "id": "a", "found": true}    the client said so, or
    {"type": "error", "id": "a", "status": 429, "retry_after": 3, "error": {...}}
    {"type": "pong"}

Each id ends with exactly one of the three, and may be used again after it. Each chat has a task, a row of its
own in the router, and its share of the key's limits, as a request of its own would. Where the client reads
too slowly, rows wait in their generations up to those' bound, and end there with `overloaded`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, Literal

import msgspec
from sanic.request import Request
from websockets.frames import CloseCode

from appliance.access.keyring import Key
from appliance.access.limits import Charge
from appliance.errors import ApiError
from appliance.server import body, generate, rows, schema, skills
from appliance.server.caller import caller_of, signed
from appliance.server.chat import ask_of
from appliance.server.control import Control
from appliance.server.parse import parse
from appliance.server.replies import as_api_error, encode, request_id
from appliance.server.ws.socket import Gone, Socket, frame
from appliance.supervisor.record import Caller

MOST = 256  # chats at once on one socket
IDLE_S = 600.0  # without a chat or a message
LONGEST_ID = 512  # characters


class Head(msgspec.Struct):
    """What tells one message from another. The rest is looked at by whom it is for."""

    type: msgspec.Raw = schema.NULL
    id: msgspec.Raw = schema.NULL


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["cancel"]
    id: str


class Ping(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["ping"]


class Chat(schema.ChatRequest, forbid_unknown_fields=True, kw_only=True):
    id: str
    type: Literal["chat"] | None = None


class Session:
    def __init__(self, control: Control, request: Request) -> None:
        self._control, self._request = control, request
        most = control.spec().server.max_body
        self._socket = Socket(request, most, self.wind_down, self._look)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers = 0
        self._closing = False  # nothing new is taken
        self._ended = False
        self._used = time.monotonic()

    async def run(self) -> None:
        """Until either side has had enough. Raises ApiError before the handshake is answered, never after."""
        self._socket.accept()
        try:
            async for message in self._socket.messages():
                self._used = time.monotonic()
                try:
                    await self._take(message)
                except Gone:
                    break
        except asyncio.CancelledError:
            # The connection is gone, or is being cut. Sanic must not write an HTTP error into it.
            self._socket.abort()
        finally:
            self._socket.stop()
            self._closing = self._ended = True
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- messages ---------------------------------------------------------------------------------

    async def _take(self, message: bytes | None) -> None:
        id: str | None = None
        try:
            if message is None:
                raise ApiError("invalid_request", "a binary frame came; messages are JSON in text frames")
            head = await self._head(message)
            kind, id = _word(head.type, "type"), _word(head.id, "id")
            if id is not None and len(id) > LONGEST_ID:  # too long to be said back
                text = f"id: has more than {LONGEST_ID} characters"
                raise _Nameless("invalid_request", text, param="id")
            if kind == "ping":
                parse(message, Ping)
                self._send({"type": "pong"})
            elif kind == "cancel":
                self._cancel(parse(message, Cancel).id)
            elif kind in (None, "chat"):
                await self._begin(id, message)
            else:
                text = f"type: {kind[:40]!a} is not known; known are chat, cancel and ping"
                raise ApiError("invalid_request", text, param="type")
        except ApiError as error:
            self._fail(id, error)

    async def _head(self, message: bytes) -> Head:
        if len(message) <= body.SMALL:
            return parse(message, Head)
        async with self._request.app.ctx.big_bodies:
            return await asyncio.to_thread(parse, message, Head)

    async def _begin(self, id: str | None, message: bytes) -> None:
        """A chat. Its message is read here, before the next one: only one at a time lies about."""
        if id is None:
            raise ApiError("invalid_request", "id: is missing; give each chat one of your own", param="id")
        if id in self._tasks:
            text = f"id: {id[:100]!a} is running already; choose another, or wait for its end"
            raise _Nameless("invalid_request", text, param="id")
        if self._closing:
            text = "this connection is about to close; connect again"
            raise ApiError("overloaded", text, retry_after=1)
        if len(self._tasks) >= MOST:
            text = f"{MOST} chats run on this connection, which is the limit; wait for one to end"
            raise ApiError("rate_limited", text, retry_after=1)
        self._control.router.check(self._named(caller_of(self._request), None))
        charge = self._charge(len(message))
        try:
            asked = await body.decode(self._request, message, Chat)
            if asked.stream is False:
                text = "stream: answers are always streamed here; leave it out"
                raise ApiError("invalid_request", text, param="stream")
            asked.stream = True
        except BaseException:
            if charge is not None:
                charge.close()
            raise
        task = asyncio.get_running_loop().create_task(self._chat(asked, charge))
        self._tasks[id] = task
        task.add_done_callback(lambda task: self._over(id, task, charge))

    def _cancel(self, id: str) -> None:
        task = self._tasks.get(id)
        if task is None:
            self._send({"type": "cancelled", "id": id, "found": False})
        else:
            task.cancel()

    def _over(self, id: str, task: asyncio.Task[None], charge: Charge | None) -> None:
        """However it ended, also before it began."""
        if charge is not None:
            charge.close()
        del self._tasks[id]
        self._used = time.monotonic()
        if self._ended:
            return
        with contextlib.suppress(Gone):
            if task.cancelled():
                self._send({"type": "cancelled", "id": id, "found": True})
        if self._closing and not self._tasks:
            self._say_goodbye()

    # --- chats ------------------------------------------------------------------------------------

    async def _chat(self, asked: Chat, charge: Charge | None) -> None:
        with contextlib.suppress(Gone):
            try:
                await self._stream(await self._ask(asked, charge))
            except Gone:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
                await self._socket.drain()
                self._fail(asked.id, as_api_error(self._request, error))

    async def _ask(self, asked: Chat, charge: Charge | None) -> generate.Ask:
        """As the route of Chat Completions makes it, in other frames."""
        chosen = await skills.choose(self._control, asked)
        found = rows.chat(asked, chosen.tools)
        caller = signed(self._request, asked, self._control, left_out=found.left_out)
        return ask_of(
            asked,
            found,
            self._named(caller, charge),
            id=asked.id,
            frame=frame,
            done=frame(encode({"type": "done", "id": asked.id})),
            opener=chosen.opener(self._control, found),
        )

    async def _stream(self, ask: generate.Ask) -> None:
        router, socket = self._control.router, self._socket
        begun = await generate.first(router, ask)
        async with begun:
            form = ask.format(begun)
            if socket.write(form.opening(len(ask.rows))):
                await socket.drain()
            socket.write(await generate.answer(router, ask, begun, form, socket))

    def _charge(self, size: int) -> Charge | None:
        """What the key that opened this connection is charged for one chat. Raises ApiError."""
        declared = self._control.spec().server.api_keys
        if declared is None:
            return None
        key: Key | None = getattr(self._request.ctx, "key", None)
        if key is None:
            raise ApiError("unauthorized", "an API key is needed by now: connect again with one")
        return self._control.access.charge(key, size)

    def _named(self, caller: Caller, charge: Charge | None) -> Caller:
        """Each chat is a request of its own in logs and books."""
        self._numbers += 1
        name = f"{request_id(self._request)}/{self._numbers}"
        return msgspec.structs.replace(caller, charge=charge, request_id=name)

    # --- the connection ---------------------------------------------------------------------------

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.write(frame(encode(message)))

    def _fail(self, id: str | None, error: ApiError) -> None:
        if not error.recorded:
            self._control.router.note(self._named(caller_of(self._request), None), error.code)
        about = None if isinstance(error, _Nameless) else id
        message: dict[str, Any] = {"type": "error", "id": about, "status": error.status}
        if error.retry_after is not None:
            message["retry_after"] = max(1, math.ceil(error.retry_after))
        self._send({**message, **error.body()})

    def wind_down(self) -> None:
        """Take nothing new, and go when what runs has ended."""
        if not self._closing:
            self._closing = True
            if not self._tasks:
                self._say_goodbye()

    def _say_goodbye(self) -> None:
        restarts = self._request.app.ctx.listeners.handed_over
        code = CloseCode.SERVICE_RESTART if restarts else CloseCode.GOING_AWAY
        self._socket.close(code, "this address is closing; connect again")

    def _look(self) -> None:
        """Now and then: close what nobody uses."""
        if not self._tasks and time.monotonic() - self._used >= IDLE_S:
            self._socket.close(CloseCode.NORMAL_CLOSURE, f"nothing was asked for {IDLE_S:g} s")


class _Nameless(ApiError):
    """Of a message, and not the end of a chat that runs under its id."""


def _word(raw: msgspec.Raw, name: str) -> str | None:
    if raw == schema.NULL:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ApiError("invalid_request", f"{name}: must be a string", param=name) from None
