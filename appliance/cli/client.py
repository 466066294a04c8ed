"""Speaking to a running appliance: requests, streams of events, and errors a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from appliance.cli.failure import CliError
from appliance.cli.key import FILE_VARIABLE, VARIABLE

if TYPE_CHECKING:
    import httpx

ANSWER_WITHIN = 30.0  # seconds, for what does no work; a load takes as long as it takes


class NotRunning(CliError):
    """Nobody answers at the address."""


class Refused(CliError):
    """The appliance answered with an error. `api_code` is one of the API's stable codes."""

    def __init__(self, message: str, api_code: str, status: int) -> None:
        super().__init__(message)
        self.api_code = api_code
        self.status = status


@dataclass(frozen=True)
class Event:
    """One Server-Sent Event."""

    type: str
    data: str
    id: str = ""


class Appliance:
    """One appliance at one address. Use as a context manager."""

    def __init__(self, url: str, start_with: str = "lmx up", key: str | None = None) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._start_with = start_with
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=ANSWER_WITHIN,
            trust_env=False,  # a proxy of this shell has nothing to do with an appliance on this network
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def headers(self) -> dict[str, str]:
        """What each request of another client to this appliance has to carry: the key, where there is one."""
        key = self._http.headers.get("authorization")
        return {} if key is None else {"authorization": key}

    def get(self, path: str) -> Any:
        return self._answer("GET", path)

    def post(self, path: str, body: Any = None, *, patient: bool = False) -> Any:
        """patient: wait without limit, as for a load."""
        return self._answer("POST", path, body, patient=patient)

    def delete(self, path: str, body: Any = None) -> Any:
        return self._answer("DELETE", path, body)

    def events(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Iterator[Event]:
        """A stream of events, until the server ends it. POST when there is a body."""
        import httpx

        method = "GET" if body is None else "POST"
        timeout = httpx.Timeout(ANSWER_WITHIN, read=None)
        with (
            self._reached(),
            self._http.stream(
                method,
                path,
                json=body,
                timeout=timeout,
                headers={"accept": "text/event-stream", **(headers or {})},
            ) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise _refusal(response)
            yield from read_events(response.iter_bytes())

    def _answer(self, method: str, path: str, body: Any = None, *, patient: bool = False) -> Any:
        import httpx

        timeout = httpx.Timeout(ANSWER_WITHIN, read=None) if patient else httpx.Timeout(ANSWER_WITHIN)
        with self._reached():
            response = self._http.request(method, path, json=body, timeout=timeout)
        if response.status_code >= 400:
            raise _refusal(response)
        try:
            return response.json()
        except ValueError as error:
            raise CliError(
                f"{self.url} answered {path} with something that is not JSON. Is it LMX?"
            ) from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotRunning(
                f"no appliance answers at {self.url}. Start it with `{self._start_with}`, "
                "or name another with --url."
            ) from error
        except httpx.TimeoutException as error:
            raise NotRunning(f"{self.url} took the connection but does not answer.") from error
        except httpx.TransportError as error:
            raise NotRunning(
                f"the connection to {self.url} broke: {str(error).rstrip('.') or type(error).__name__}."
            ) from error
        except httpx.InvalidURL as error:
            raise CliError(
                f"{self.url!r} is not an address: {error}. Write it like http://127.0.0.1:1234."
            ) from error


def read_events(chunks: Iterator[bytes]) -> Iterator[Event]:
    """Server-Sent Events from bytes. Lines end at a newline only: text may hold Unicode line separators."""
    buffer = b""
    kind, data, mark = "message", list[str](), ""
    for chunk in chunks:
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", errors="replace")
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if data:
                    yield Event(kind, "\n".join(data), mark)
                kind, data = "message", []
            elif name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id":
                mark = value


def _refusal(response: httpx.Response) -> Refused:
    """The error in the appliance's own words."""
    try:
        error = json.loads(response.text)["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (ValueError, KeyError, TypeError):
        first = response.text.strip().partition("\n")[0][:200]
        message, code = f"HTTP {response.status_code}: {first or response.reason_phrase}", ""
    if code == "unauthorized":
        message += f" Put a key into {VARIABLE}, or its file's name into {FILE_VARIABLE}."
    return Refused(f"{message} ({code})" if code else message, code, response.status_code)
