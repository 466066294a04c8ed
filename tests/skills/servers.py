"""An MCP server for tests, of the SDK's own server side: `python servers.py stdio | http PORT [TOKEN]`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("weather")


@server.tool()
def get_weather(city: str) -> str:
    """Get the weather in a city"""
    if city == "Atlantis":
        raise ToolError("no such city")
    return '{"sky": "sunny", "degrees": 21}'


@server.tool()
def hang() -> str:
    """Hang the whole server"""
    Path("hangs").touch()
    time.sleep(1000)
    return ""


@server.tool()
async def wait() -> str:
    """Wait without hanging anybody"""
    import anyio

    Path("waits").touch()
    await anyio.sleep(1000)
    return ""


@server.tool()
def die() -> str:
    """End the server"""
    os._exit(3)


@server.tool()
def look() -> dict[str, Any]:
    """Look around"""
    return {"env": dict(os.environ), "cwd": str(Path.cwd()), "pid": os.getpid()}


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """A picture beside text"""
    return ["here it is:", Image(data=b"123456", format="png")]


@server.tool()
def long(length: int) -> str:
    """A long result"""
    return "x" * length


@server.tool()
def hog(mebibytes: int) -> int:
    """Take memory"""
    held = b"x" * (mebibytes << 20)
    time.sleep(1000)
    return len(held)


@server.tool()
async def grow(context: Context) -> str:
    """Offer another tool from now on"""

    def grown() -> str:
        """It was not there before"""
        return "grown"

    server.add_tool(grown)
    await context.notify_tools_changed()
    return "ok"


class Guarded:
    """Only for those who show the token."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != self.token:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"who are you?"})
            return
        await self.app(scope, receive, send)


def main() -> None:
    if sys.argv[1] == "stdio":
        server.run("stdio")
        return
    import uvicorn

    app: Any = server.streamable_http_app()
    if len(sys.argv) > 3:
        app = Guarded(app, f"Bearer {sys.argv[3]}".encode())
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")


if __name__ == "__main__":
    main()
