"""What goes to stderr: text for people on a terminal, one JSON object per line for machines.

    {"ts": "2026-01-31T12:00:00.123Z", "level": "info", "logger": "lmx.requests", "msg": "...", ...}

Beside these, where they apply: request_id, route, key (its name), model, engine, generation, step,
prompt_tokens, cached_tokens, cached_from, left_out, tokens, ttft_ms, duration_ms, code. Never the text of a
prompt or an answer, a key, or the value of a header other than the request id.

Lines are written by a thread of their own: a reader of stderr that stands still must not hold up the event
loop. What it cannot take is dropped, and how many that were is said when it takes lines again. A log of our
own (`lmx up --log-file`) is `log_file`'s.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Style = Literal["json", "text"]

TEXT = "%(asctime)s %(name)s %(message)s"
WAITING = 10_000  # lines that may wait for a slow reader
GATHER_S = 0.02  # lines that come within so long of each other are written together
FIELDS = "fields"  # the name of `extra` that carries a line's own members

_encode = msgspec.json.Encoder(enc_hook=str).encode


def fields(**members: Any) -> dict[str, dict[str, Any]]:
    """For `log.info(..., extra=fields(model=...))`. What is None is left out."""
    return {FIELDS: {name: value for name, value in members.items() if value is not None}}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "ts": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        more: Mapping[str, Any] = getattr(record, FIELDS, {})
        line.update((name, value) for name, value in more.items() if name not in line)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()


class _Handler(logging.Handler):
    """Formats at once, since what a record refers to may change, and never waits."""

    def __init__(self, formatter: logging.Formatter, waiting: queue.SimpleQueue[str | None]) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.waiting = waiting
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self.waiting.qsize() >= WAITING:
            self.dropped += 1  # `handle` holds the lock here
            return
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a line that cannot be put into words must not end its author
            text = f"a log line at {record.pathname}:{record.lineno} cannot be written: {error!r}"
            line = self.format(logging.LogRecord(record.name, logging.ERROR, "", 0, text, None, None))
        self.waiting.put(line)

    def take_dropped(self) -> int:
        self.acquire()
        try:
            count, self.dropped = self.dropped, 0
        finally:
            self.release()
        return count


class Logs:
    """Logging as `lmx up` wants it, from here to `close`."""

    def __init__(
        self, style: Style | None = None, file: int = 2, write: Callable[[bytes], object] | None = None
    ) -> None:
        """file: where to, an open file descriptor. write: instead of it; takes whole lines, may raise
        OSError. style None: JSON, unless that is a terminal."""
        style = style or ("text" if write is None and os.isatty(file) else "json")
        formatter = JsonFormatter() if style == "json" else logging.Formatter(TEXT)
        self._file, self._formatter = file, formatter
        self._write_own = write
        self._handler = _Handler(formatter, queue.SimpleQueue())
        self._lost = 0
        self._closing = threading.Event()
        # A daemon: one that hangs in a write must not keep the process from ending.
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        root.addHandler(self._handler)
        for name in ("sanic", "sanic.error", "httpx"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def close(self, within: float = 2.0) -> None:
        """Write what waits, and stop: within so many seconds, also where a reader stands still."""
        logging.getLogger().removeHandler(self._handler)
        self._closing.set()
        self._handler.waiting.put(None)
        self._thread.join(within)

    # --- the writing thread -----------------------------------------------------------------------

    def _write(self) -> None:
        going = True
        while going:
            lines = [self._handler.waiting.get()]
            self._closing.wait(GATHER_S)  # each wake-up of this thread costs the event loop a moment
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._handler.waiting.get_nowait())
            going = None not in lines
            self._out([line for line in lines if line is not None])

    def _out(self, lines: list[str]) -> None:
        dropped, self._lost = self._handler.take_dropped() + self._lost, 0
        if dropped:
            lines.insert(0, self._note(dropped))
        for start in range(0, len(lines), 100):
            some = lines[start : start + 100]
            try:
                self._whole("".join(f"{line}\n" for line in some).encode("utf-8", "replace"))
            except OSError:  # a full disk, a reader that has gone: these lines are lost, and counted
                noted = (
                    dropped - 1 if start == 0 and dropped else 0
                )  # the note itself is no line of anybody's
                self._lost += len(some) + noted

    def _whole(self, data: bytes) -> None:
        if self._write_own is not None:
            self._write_own(data)
            return
        # Not through sys.stderr: its lock, held by a thread that hangs, would end the interpreter badly.
        while data:
            data = data[os.write(self._file, data) :]

    def _note(self, lost: int) -> str:
        text = "%d log lines could not be written"
        return self._formatter.format(logging.LogRecord("lmx", logging.WARNING, "", 0, text, (lost,), None))
